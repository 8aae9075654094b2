"""Kernels of a step, the time to launch them, and the share of the copy bandwidth."""

import contextlib
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch.profiler import ProfilerActivity
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.gpu.machine import copy_bandwidth
from benchmarks.gpu.workload import make_noise_trainer, make_trial, within_steps
from benchmarks.harness import Outcome, local_device, wait_for_gpu
from bioimg.training.loop import train
from bioimg.training.trial_trainer import TrialTrainer

WARM_UP_STEPS = 4
SHOWN_KERNELS = 12


class StepClock(contextlib.AbstractContextManager):
    """The seconds until the CPU has launched a step, and until the device has computed it."""

    def __enter__(self) -> None:
        wait_for_gpu()
        self._started = time.perf_counter()

    def __exit__(self, *exception: object) -> None:
        self.launch_seconds = time.perf_counter() - self._started
        wait_for_gpu()
        self.seconds = time.perf_counter() - self._started


class ByteCounter(TorchDispatchMode):
    """The bytes that operations read and write, each tensor once per operation.

    What a fused optimizer writes isn't counted.
    """

    count = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        if not function.is_view:
            for leaf in tree_leaves((args, kwargs, result)):
                self.count += leaf.nbytes if torch.is_tensor(leaf) else 0
        return result


class KernelProfiler(contextlib.AbstractContextManager):
    """The kernels of a step. On a CPU, its operations."""

    def __enter__(self) -> None:
        activities = [ProfilerActivity.CPU]
        if local_device().type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        self._profiler = torch.profiler.profile(activities=activities)
        self._profiler.__enter__()

    def __exit__(self, *exception: object) -> None:
        wait_for_gpu()
        self._profiler.__exit__(None, None, None)

    def kernel_rows(self) -> list[dict[str, Any]]:
        """Return names, calls and milliseconds, the longest first."""
        has_gpu = local_device().type == "cuda"
        kind = "CUDA" if has_gpu else "CPU"
        rows = []
        for event in self._profiler.key_averages():
            # an annotation spans the kernels that it names
            if event.device_type.name == kind and not event.is_user_annotation:
                time_us = event.self_device_time_total if has_gpu else event.self_cpu_time_total
                rows.append({"kernel": event.key[:60], "calls": event.count, "ms": time_us / 1e3})
        return sorted(rows, key=lambda row: row["ms"], reverse=True)


def measure(small: bool) -> Outcome:
    """Watch three steps of the training loop, each in another way."""
    trial = make_trial(small, epochs=1)
    trainer = make_noise_trainer(trial, WARM_UP_STEPS + 3)
    clock, profiler, counter = StepClock(), KernelProfiler(), ByteCounter()
    watch_steps(trainer, clock, profiler, counter)
    kernels = profiler.kernel_rows()
    rate = counter.count / clock.seconds
    whole = {
        "kernel": "the whole step",
        "calls": sum(row["calls"] for row in kernels),
        "ms": sum(row["ms"] for row in kernels),
        "ms to launch": 1e3 * clock.launch_seconds,
        "ms in all": 1e3 * clock.seconds,
        "share of copy bandwidth": rate / copy_bandwidth(small),
    }
    title = f"A step of {trial.model}, {trial.image_size} px, batch of {trial.batch_size}"
    return Outcome(title, [whole, *kernels[:SHOWN_KERNELS]], [])


def count_step_bytes(trainer: TrialTrainer) -> float:
    """Return the bytes that a training step reads and writes for an image."""
    counter = ByteCounter()
    watch_steps(trainer, counter)
    return counter.count / trainer.trial.batch_size


def watch_steps(trainer: TrialTrainer, *watches: AbstractContextManager) -> None:
    """Train, with a watch on each of the steps after those that warm up, in the first epoch."""
    remaining = iter(watches)

    def watch_for(number: int) -> AbstractContextManager:
        if number < WARM_UP_STEPS:
            return contextlib.nullcontext()
        return next(remaining, contextlib.nullcontext())

    with within_steps(watch_for):
        next(iter(train(trainer)))
