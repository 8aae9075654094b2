"""What a `precision` of `auto` means in a run: one number format for all its machines."""

from collections.abc import Sequence

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

ANSWER_TIMEOUT_S = 30.0
"""Seconds in which a machine must say what it is fast in. Otherwise it takes what others are."""


def ask_machines(*, gpu: bool) -> "list[ray.ObjectRef[str]]":
    """Ask each machine that trains in which number format it multiplies matrices fastest.

    A single machine without a GPU isn't asked: all its lanes find the same.
    """
    resource = "GPU" if gpu else "CPU"
    node_ids = [
        node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get(resource)
    ]
    if not gpu and len(node_ids) == 1:
        return []
    task = ray.remote(_slowest_device_format)
    answers = []
    for node_id in node_ids:
        there = NodeAffinitySchedulingStrategy(node_id, soft=False)
        # it reserves no device, so that a busy machine answers, too
        options = task.options(num_cpus=0, max_retries=0, scheduling_strategy=there)
        answers.append(options.remote(gpu))
    return answers


def choose_format(answers: "Sequence[ray.ObjectRef[str]]") -> str:
    """Return the number format that every machine which answered is fast in; `auto` if none did."""
    from bioimg.training.precision import NUMBER_FORMATS

    if not answers:
        return "auto"
    ready, _ = ray.wait(list(answers), num_returns=len(answers), timeout=ANSWER_TIMEOUT_S)
    formats = []
    for answer in ready:
        try:
            formats.append(ray.get(answer))
        except RayError:  # a machine that is lost trains nothing
            continue
    return min(formats, key=NUMBER_FORMATS.index, default="auto")


def _slowest_device_format(gpu: bool) -> str:
    import torch

    from bioimg.training.precision import NUMBER_FORMATS, fastest_format

    gpus = [torch.device("cuda", number) for number in range(torch.cuda.device_count())]
    devices = gpus if gpu and gpus else [torch.device("cpu")]
    return min(map(fastest_format, devices), key=NUMBER_FORMATS.index)
