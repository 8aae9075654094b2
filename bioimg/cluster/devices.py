"""Devices: how many workers a machine or cluster can have, and how many it has room for now."""

import os
from collections.abc import Iterable, Mapping
from typing import Any

import ray

from bioimg.cluster import ray_private
from bioimg.config import TrialConfig
from bioimg.errors import UserError

RESOURCE_UNITS = 10_000
"""Units of one device in which Ray counts."""


def check_workers(
    trials: Iterable[TrialConfig], lane_count: int | None, *, is_cluster: bool
) -> None:
    """Check the workers of trials, and the user's number of lanes, against the devices.

    Raises:
        UserError: more workers, or lanes of workers, than there are or can be devices. Or the
            trials differ in their workers.
    """
    worker_counts = {trial.workers for trial in trials}
    if len(worker_counts) > 1:
        raise UserError(
            f"the values of `workers` are {sorted(worker_counts)}, but must be the same for all "
            "trials of a run: they share lanes."
        )
    workers = worker_counts.pop()
    needed = workers * (lane_count or 1)
    if needed == 1 and not is_cluster:
        return  # every machine has a device, and to count them takes torch
    device, device_count = count_devices() if is_cluster else count_local_devices()
    if device == "GPU" and needed > device_count and not is_cluster:
        _check_lanes_that_share(workers, lane_count or 1, device_count)
        return
    # machines that will join a cluster can't be counted, so there the user's number of lanes holds
    if needed <= device_count or (is_cluster and lane_count):
        return
    field = f"`workers` ({workers})"
    if lane_count:
        field += f" times `lanes` ({lane_count})"
    way_out = "Lower it, or use a larger machine or cluster."
    if is_cluster:
        way_out += (
            " If more machines will join this one, set --lanes to the number of lanes to wait for."
        )
    raise UserError(
        f"the value of {field} is {needed}, but must be at most the number of devices, which "
        f"is {device_count} ({device}). {way_out}"
    )


def _check_lanes_that_share(workers: int, lane_count: int, gpus: int) -> None:
    """Check lanes that share this machine's GPUs since they are more.

    Raises:
        UserError: they have several workers, or are more than the machine has cores.
    """
    if workers > 1:
        raise UserError(
            f"the value of `workers` ({workers}) times `lanes` ({lane_count}) is "
            f"{workers * lane_count}, but must be at most the number of GPUs, which is {gpus}: "
            "only lanes of one worker can share a GPU, since NCCL needs one for each worker. "
            "Lower one of the two."
        )
    cores = os.cpu_count() or 1
    if lane_count > cores:
        raise UserError(
            f"the value of `lanes` is {lane_count}, but must be at most the number of CPU cores, "
            f"which is {cores}: each lane needs one, also if it shares a GPU. Lower it."
        )


def share_of_gpu(lane_count: int, gpus: int) -> float:
    """Return how much of a GPU each of several lanes gets: less than 1 if they are more."""
    lanes_per_gpu = max(1, -(-lane_count // gpus))
    # rounded down, so that all lanes find room
    return RESOURCE_UNITS // lanes_per_gpu / RESOURCE_UNITS


def count_devices() -> tuple[str, int]:
    """Return the kind of device that trials run on, GPU if there are any, and how many there are.

    On a cluster that grows, that is how many there can be.
    """
    available, config = ray.cluster_resources(), ray_private.autoscaler_config()
    maximum = {
        name: max(available.get(name, 0), autoscaler_maximum(config, name))
        for name in ("GPU", "CPU")
    }
    kind = "GPU" if maximum["GPU"] else "CPU"
    return kind, int(maximum[kind])


def count_local_devices() -> tuple[str, int]:
    """Return the kind of this machine's devices, GPU if torch knows any, and how many there are.

    Raises:
        UserError: there are GPUs that torch can't use.
    """
    import torch

    gpus = torch.cuda.device_count()
    if not gpus:
        return "CPU", os.cpu_count() or 1
    if not torch.cuda.is_available():  # Ray would start lanes on them
        raise UserError(
            f"the number of this machine's GPUs is {gpus}, but torch {torch.__version__} can't use "
            f"any. Most often, the driver is too old for its CUDA {torch.version.cuda}: "
            "`nvidia-smi` shows the newest that the driver supports. Update the driver, install a "
            "torch that fits it (https://pytorch.org/get-started), or use the CPU: "
            "CUDA_VISIBLE_DEVICES=''."
        )
    return "GPU", gpus


def autoscaler_maximum(config: Mapping[str, Any], resource: str) -> float:
    """Return how much of a resource the machines have together that an autoscaler may start."""
    amounts = []
    for name, node_type in config.get("available_node_types", {}).items():
        if name != config.get("head_node_type"):
            amount = node_type.get("resources", {}).get(resource, 0)
            amounts += [amount] * node_type.get("max_workers", 0)
    # the cluster's own maximum may leave out some of the machines
    return sum(sorted(amounts, reverse=True)[: config.get("max_workers", 0)])


def count_worker_slots(resources: Mapping[str, float]) -> int:
    """Return how many workers with these resources the cluster can run if nothing else uses it."""
    slots = 0
    for node in ray.nodes():
        if node["Alive"]:
            available = node["Resources"]
            slots += min(
                _resource_units(available.get(name, 0)) // _resource_units(need)
                for name, need in resources.items()
            )
    return slots


def _resource_units(amount: float) -> int:
    """Return an amount of a resource as Ray counts it: as a float, 1 // 0.1 is 9."""
    return round(amount * RESOURCE_UNITS)
