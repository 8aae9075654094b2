"""Memory over the trials of a process, as on a lane, and a trial that needs too much of it."""

import contextlib
import dataclasses
import tempfile
import time
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch

from benchmarks.gpu.workload import make_trial, reset_peak_memory, used_memory
from benchmarks.harness import Outcome, Target, local_device
from benchmarks.step import noise_images, split_in_order
from bioimg.config import TrialConfig
from bioimg.data.image_set import Dataset
from bioimg.results.result_store import ResultStore
from bioimg.training.trial_recorder import TrialContext
from bioimg.training.trial_runner import run_trial
from bioimg.training.trial_trainer import TrialTrainer

KINDS = (("none", 32), ("layer2", 64), ("features", 32), ("none", 128))
"""Freezing and batch sizes of trials that follow each other."""
ROUNDS = 3
"""How often they do. In the first round, much is made that stays for the later ones."""
TRAIN_IMAGES = 512
LIMIT_BYTES = 2**31
"""Memory that suffices for the model, but not for a batch of all images."""


def measure(small: bool) -> Outcome:
    """Run trials one after another, then one without enough memory, and one more."""
    base = make_trial(small, epochs=1)
    images = noise_images(TRAIN_IMAGES + 20, base.image_size)
    dataset = Dataset(images=images, split=split_in_order(TRAIN_IMAGES, 10, 10))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        context = TrialContext(
            experiment_name="memory", store=ResultStore(folder), device=local_device()
        )
        for number in range(ROUNDS):
            for freeze, batch_size in KINDS:
                trial = dataclasses.replace(base, freeze=freeze, batch_size=batch_size, seed=number)
                rows.append({"round": number + 1, **trial_row(trial, dataset, context)})
        too_large = dataclasses.replace(base, batch_size=TRAIN_IMAGES, seed=ROUNDS)
        with limited_memory():
            rows.append(trial_row(too_large, dataset, context))
        rows.append(trial_row(dataclasses.replace(base, seed=ROUNDS), dataset, context))
    return Outcome(f"Trials of {base.model} in one process", rows, memory_targets(rows))


def trial_row(trial: TrialConfig, dataset: Dataset, context: TrialContext) -> dict[str, Any]:
    """Run a trial. Return how it ended, and the memory after it and at its peak."""
    reset_peak_memory()
    started = time.perf_counter()
    status = run_trial(trial, dataset, context, lambda _: None)
    seconds = time.perf_counter() - started
    (recorded,) = context.store.tables.trial_rows("trials", trial.key)
    return {
        "freeze": trial.freeze,
        "batch": trial.batch_size,
        "status": status,
        "error": (recorded.get("error") or "").partition(":")[0],
        "seconds": seconds,
        **used_memory(),
    }


@contextlib.contextmanager
def limited_memory() -> Iterator[None]:
    """Leave this process too little of the GPU's memory; without one, pretend that it has."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        _, total = torch.cuda.mem_get_info()
        torch.cuda.set_per_process_memory_fraction(LIMIT_BYTES / total)
        yield
        torch.cuda.set_per_process_memory_fraction(1.0)
    else:
        with mock.patch.object(TrialTrainer, "forward", side_effect=torch.OutOfMemoryError):
            yield


def memory_targets(rows: list[dict[str, Any]]) -> list[Target]:
    """Return the targets: memory that doesn't grow, and a failure that harms no other trial."""
    *trials, too_large, next_trial = rows
    last, before = (
        max(row["peak MiB"] for row in trials if row["round"] == number)
        for number in (ROUNDS, ROUNDS - 1)
    )
    survived = too_large["status"] == "failed" and next_trial["status"] == "completed"
    growth = last / before
    return [
        Target("peak memory against the round before", growth, 1.05, "times", at_most=True),
        Target("trials that complete after one without enough memory", survived, 1, "trials"),
    ]
