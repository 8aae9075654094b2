"""Trackers that a lab may run already, told of every epoch through Ray Tune's own integrations."""

import importlib.util
from collections.abc import Sequence

from ray import tune

from bioimg.config import UserError


def callbacks(trackers: Sequence[str], experiment: str) -> list[tune.Callback]:
    """What Tune tells of each trial. Where it goes, the trackers' own variables say (MLFLOW_TRACKING_URI, WANDB_...)."""
    return [{"mlflow": _mlflow, "wandb": _wandb}[tracker](experiment) for tracker in trackers]


def check(trackers: Sequence[str]) -> None:
    """Find out whether trackers are installed.

    Raises:
        UserError: one isn't.
    """
    for tracker in trackers:
        if importlib.util.find_spec(tracker) is None:
            raise UserError(
                f"the value of `track` is {tracker!r}, but that package isn't installed. Install it with "
                f"`pip install '.[{tracker}]'`, or leave out --track."
            )


def _mlflow(experiment: str) -> tune.Callback:
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    return MLflowLoggerCallback(experiment_name=experiment)


def _wandb(experiment: str) -> tune.Callback:
    from ray.air.integrations.wandb import WandbLoggerCallback

    return WandbLoggerCallback(project="bioimg", group=experiment)
