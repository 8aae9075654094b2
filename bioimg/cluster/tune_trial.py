"""A Tune trial. It only relays: a lane does the work, and this process doesn't import torch."""

import dataclasses
import json
from typing import Any

import ray
from ray import tune

from bioimg.cluster.coordinator import TrialEnded
from bioimg.config import TrialConfig


def relay_trial(config: dict[str, Any], board: Any) -> None:
    """Put a trial on the board and relay each epoch, until it ends in its lane or Tune stops it here.

    When started again after its process died, it resumes with the report that has no answer yet.
    """
    name = trial_key(config)
    ray.get(board.submit.remote(name, dataclasses.asdict(decode_trial(config))))
    while not isinstance(report := ray.get(board.next_report.remote(name)), TrialEnded):
        tune.report(
            report
        )  # returns when Tune lets the trial continue; raises SystemExit when its scheduler has stopped it
        ray.get(board.acknowledge.remote(name, report["epoch"]))


def trial_key(config: dict[str, Any]) -> str:
    """The key of the trial that a Tune config holds."""
    return decode_trial(config).key


def encode_trial(trial: TrialConfig) -> str:
    """A trial as one text for Tune, since Tune copies the whole grid, value by value, for each trial that it creates."""
    return json.dumps(dataclasses.asdict(trial))


def decode_trial(config: dict[str, Any]) -> TrialConfig:
    """The trial that a Tune config holds."""
    return TrialConfig(**json.loads(config["trial"]))
