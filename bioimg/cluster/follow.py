"""A Tune trial. It is thin: the work is done by a lane, and this process imports no torch."""

from typing import Any

import ray
from ray import tune

from bioimg.cluster.board import Ended
from bioimg.config import TrialConfig


def follow(config: dict[str, Any], board: Any) -> None:
    """Put a trial on the board and relay each epoch, until it ends in its lane or Tune stops it here.

    Begun anew after its process died, it goes on with the report that has no answer yet.
    """
    name = key(config)
    ray.get(board.submit.remote(name, config["trial"]))
    while not isinstance(report := ray.get(board.next.remote(name)), Ended):
        try:
            tune.report(report)  # returns when Tune lets the trial go on
        except SystemExit:  # it doesn't
            ray.get(board.answer.remote(name, report["epoch"], False))
            raise
        ray.get(board.answer.remote(name, report["epoch"], True))


def key(config: dict[str, Any]) -> str:
    """The key of the trial that a Tune config holds."""
    return TrialConfig(**config["trial"]).key
