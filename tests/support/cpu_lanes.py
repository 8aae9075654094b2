"""Importing this lets lanes train on the CPU, whatever GPU Ray has given them.

A lane trains its first trial only when the lanes have taken all GPUs.
"""

import functools
from typing import Any

import ray
import torch

from bioimg.cluster import lane_worker
from support.processes import wait_until


class Name(str):
    """Name an experiment; the name brings this module into the process of each lane."""


@functools.cache
def wait_for_all_lanes() -> None:
    wait_until(lambda: ray.available_resources().get("GPU", 0) == 0, "the lanes on the GPU")


def run_trial(*arguments: Any) -> str:
    wait_for_all_lanes()
    return train_and_record(*arguments)


train_and_record = lane_worker.run_trial
lane_worker.run_trial = run_trial  # type: ignore[assignment]
lane_worker.get_device = lambda: torch.device("cpu")
