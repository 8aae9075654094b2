"""Trackers that a lab may run already; they get every epoch through Ray Tune's own integrations."""

import dataclasses
import importlib.util
from collections.abc import Sequence
from typing import Any

from ray import tune

from bioimg.cluster.follow import trial_of
from bioimg.config import UserError


def callbacks(trackers: Sequence[str], experiment: str) -> list[tune.Callback]:
    """Tune's callbacks for trackers, which read their destination from their own variables (MLFLOW_TRACKING_URI, WANDB_...)."""
    return [{"mlflow": _mlflow, "wandb": _wandb}[tracker](experiment) for tracker in trackers]


def check(trackers: Sequence[str]) -> None:
    """Check that trackers are installed.

    Raises:
        UserError: one isn't.
    """
    for tracker in trackers:
        if importlib.util.find_spec(tracker) is None:
            raise UserError(
                f"the value of `track` is {tracker!r}, but that package isn't installed. Install it with "
                f"`pip install '.[{tracker}]'`, or leave out --track."
            )


class _Settings:
    """Gives a tracker the settings one by one, since Tune has them as one text."""

    def log_trial_start(self, trial: Any) -> None:
        packed, trial.config = trial.config, dataclasses.asdict(trial_of(trial.config))
        try:
            super().log_trial_start(trial)  # type: ignore[misc]
        finally:
            trial.config = packed


def _mlflow(experiment: str) -> tune.Callback:
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    return type("MLflow", (_Settings, MLflowLoggerCallback), {})(experiment_name=experiment)


def _wandb(experiment: str) -> tune.Callback:
    from ray.air.integrations.wandb import WandbLoggerCallback

    return type("Wandb", (_Settings, WandbLoggerCallback), {})(project="bioimg", group=experiment)
