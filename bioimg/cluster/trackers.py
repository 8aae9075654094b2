"""Trackers that a lab may run already; they get every epoch through Ray Tune's own integrations."""

import dataclasses
import importlib.util
from collections.abc import Sequence
from typing import Any

from ray import tune

from bioimg.cluster.tune_trial import decode_trial
from bioimg.errors import UserError


def tracker_callbacks(trackers: Sequence[str], experiment: str) -> list[tune.Callback]:
    """Tune's callbacks for trackers, which read their destination from their own variables (MLFLOW_TRACKING_URI, WANDB_...)."""
    return [
        {"mlflow": _mlflow_callback, "wandb": _wandb_callback}[tracker](experiment)
        for tracker in trackers
    ]


def check_trackers_installed(trackers: Sequence[str]) -> None:
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


class _DecodedSettingsMixin:
    """Gives a tracker the settings one by one, since Tune has them as one text."""

    def log_trial_start(self, trial: Any) -> None:
        packed, trial.config = trial.config, dataclasses.asdict(decode_trial(trial.config))
        try:
            super().log_trial_start(trial)  # type: ignore[misc]
        finally:
            trial.config = packed


def _mlflow_callback(experiment: str) -> tune.Callback:
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    return type("MLflow", (_DecodedSettingsMixin, MLflowLoggerCallback), {})(
        experiment_name=experiment
    )


def _wandb_callback(experiment: str) -> tune.Callback:
    from ray.air.integrations.wandb import WandbLoggerCallback

    return type("Wandb", (_DecodedSettingsMixin, WandbLoggerCallback), {})(
        project="bioimg", group=experiment
    )
