"""A Tune trial. It only relays: a lane does the work, and this process doesn't import torch."""

import dataclasses
import json
from typing import Any

from ray import tune

from bioimg.cluster.coordinator import TrialEnded
from bioimg.cluster.coordinator_client import CoordinatorClient
from bioimg.config import TrialConfig


def relay_trial(config: dict[str, Any], coordinator: CoordinatorClient) -> None:
    """Submit a trial and relay its epochs to Tune, until it ends in its lane or Tune stops it here.

    If this process dies and is started again, it resumes with the report that isn't acknowledged.
    """
    trial = decode_trial(config)
    coordinator.submit(trial.key, trial)
    while True:
        report = coordinator.next_report(trial.key)
        if isinstance(report, TrialEnded):
            return
        # returns when Tune lets the trial continue, raises SystemExit when its scheduler stops it
        tune.report(report)
        coordinator.acknowledge(trial.key, report["epoch"])


def trial_key(config: dict[str, Any]) -> str:
    """Return the key of the trial in a Tune config."""
    return decode_trial(config).key


def encode_trial(trial: TrialConfig) -> str:
    """Return a trial as one text: Tune copies every value of the whole grid for each trial."""
    return json.dumps(dataclasses.asdict(trial))


def decode_trial(config: dict[str, Any]) -> TrialConfig:
    """Return the trial in a Tune config."""
    return TrialConfig(**json.loads(config["trial"]))
