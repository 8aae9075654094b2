"""The grid in which each recipe has its own best learning rate, and where its time goes."""

import dataclasses
import itertools
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pandas as pd
import torch
import torchvision
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.baselines.task import ConfigurationResult, Task
from benchmarks.grid import BaselineName, BaselineRun, GridBenchmark, speed_target
from benchmarks.harness import Target, local_device, write_rows
from benchmarks.process_tree import ProcessCost
from benchmarks.recipe_agreement import compare_recipes, describe_recipe, recipe_targets
from benchmarks.step import peak_flops
from bioimg.experiment import EarlyStopping
from bioimg.results.result_store import read_results
from bioimg.training import precision

SPEED_LIMITS = {"float32": 4.0, "bfloat16": 8.0, "float16": 8.0}
"""How many times as fast as the loop this project is to be, by the machine's fastest format."""


@dataclass(frozen=True, kw_only=True)
class TunedGridBenchmark(GridBenchmark):
    """8 recipes of ResNeXt-50 at three learning rates each: this project, and a loop over all.

    Both give each recipe the rate with the lowest validation loss. This project stops rates early;
    the loop trains all of them in full. It is also checked whether both say the same of the
    recipes. For that, weights must mean something, as with --model resnext_tiny --image-size 64
    --weights TEXTURES_V1 TEXTURES_V2 --images-per-class 100 --learning-rates 2e-4 6e-4 2e-3.
    """

    images_per_class: int = 50
    """images of each class: two fifths to train, one to validate, two to test"""
    epochs: int = 16
    """epochs of each configuration"""
    batch_sizes: tuple[int, ...] = (16, 32)
    """batch sizes, none larger than the training set"""
    learning_rates: tuple[float, ...] = (3e-5, 1e-4, 3e-4)
    """learning rates that each recipe is tried at; heads on a frozen backbone at ten times these"""
    image_size: int = 96
    """side length of the images, in pixels"""
    only: tuple[BaselineName, ...] = ("ours", "sequential")
    """which contenders run"""
    name: ClassVar[str] = "tuned-grid"

    def make_task(self, source: Path, scratch: Path) -> Task:
        return dataclasses.replace(
            super().make_task(source, scratch),
            learning_rates=self.learning_rates,
            head_rate_factor=10.0,
            grace_period=EarlyStopping().grace_epochs(self.epochs),
        )

    def judge_runs(
        self, task: Task, runs: Mapping[str, Sequence[BaselineRun]]
    ) -> tuple[list[Target], list[str]]:
        """Judge speed and recipes by the last run of each contender."""
        if not (runs.get("ours") and runs.get("sequential")):
            return [], []
        ours, loop = runs["ours"][-1], runs["sequential"][-1]
        device = local_device()
        limit = SPEED_LIMITS[precision.fastest_format(device)]
        targets = [
            speed_target(runs, "ours", "sequential", limit),
            *recipe_targets(ours.rows, loop.rows),
        ]
        recipes = compare_recipes(ours.rows, loop.rows)
        write_rows(recipes, self.out / f"{self.name}-recipes.parquet")
        parts = divide_time(ours.cost, read_results(ours.folder / "results").trials)
        write_rows([parts], self.out / f"{self.name}-time.parquet")
        shares = [f"{name} {100 * share:.0f} %" for name, share in parts.items()]
        findings = [f"ours spends its time on {', '.join(shares)}"]
        if device.type == "cpu":
            findings.append(_limit_note(task, ours, loop))
        findings += [describe_recipe(recipe) for recipe in recipes]
        return targets, findings


def divide_time(cost: ProcessCost, trials: pd.DataFrame) -> dict[str, float]:
    """Return the share of each part in the time of this project's lanes, which adds up to 1.

    Two lanes have twice the time that the program takes. Training includes validation. What
    isn't recorded by itself is together: building models, saving states, testing.

    Args:
        cost: that of the program.
        trials: its table of trials, none of them resumed.
    """
    ended = trials["ended_at"].map(pd.Timestamp.timestamp)
    lane_seconds = trials["train_seconds"] + trials["wait_seconds"]
    first_taken, last_ended = (ended - lane_seconds).min(), ended.max()
    lanes = count_lanes(ended - lane_seconds, ended)
    is_frozen = trials["freeze"].eq("features")
    # lanes share the features of the same weights, and each row has all that they took
    features = trials[is_frozen].groupby("weights")["features_seconds"].max().sum()
    idle = lanes * (last_ended - first_taken) - lane_seconds.sum()
    seconds = {
        "start": lanes * (first_taken - cost.started_at),
        "features": features,
        "training heads": trials.loc[is_frozen, "train_seconds"].sum(),
        "training models": trials.loc[~is_frozen, "train_seconds"].sum(),
        "models, states and tests": trials["wait_seconds"].sum() - features,
        "idle lanes": idle,
        "report": lanes * (cost.started_at + cost.seconds - last_ended),
    }
    return {name: value / (lanes * cost.seconds) for name, value in seconds.items()}


def count_lanes(taken: Iterable[float], ended: Iterable[float]) -> int:
    """Return how many trials ran at the same time, at most."""
    # at one moment, ends come before starts
    moments = sorted([*((end, -1) for end in ended), *((start, 1) for start in taken)])
    return max(itertools.accumulate(change for _, change in moments))


def forward_flops(model: str, image_size: int) -> float:
    """Return the floating-point operations of a torchvision model's forward pass for an image.

    A multiplication and an addition count as two.
    """
    with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.no_grad():
        network = torchvision.models.get_model(model, weights=None).eval()
        network(torch.empty(1, 3, image_size, image_size))
    return counter.get_total_flops()


def least_flops(rows: Iterable[ConfigurationResult], flops_per_image: float) -> float:
    """Return the operations of all epochs and tests, if frozen backbones cost nothing.

    A backward pass has two products for each one of the forward pass.
    """
    images = 0
    for row in rows:
        if row.configuration.freeze == "none":
            images += row.epochs * (3 * row.train_images + row.val_images)
            images += row.test_images if row.is_tested else 0
    return images * flops_per_image


def _limit_note(task: Task, ours: BaselineRun, loop: BaselineRun) -> str:
    """Say how long the fine-tuned trials would take at the peak of matrix products."""
    dtype = precision.resolve_dtype("auto", torch.device("cpu"))
    peak = peak_flops(dtype)
    flops = forward_flops(task.model, task.image_size)
    own_seconds = least_flops(ours.rows, flops) / peak
    full_seconds = least_flops(loop.rows, flops) / peak
    return (
        f"limit: at {peak / 1e9:.0f} GFLOP/s ({precision.dtype_name(dtype)} products on "
        f"{os.cpu_count()} cores) and with frozen trials for nothing, ours' epochs take "
        f"{own_seconds:.0f} s ({loop.cost.seconds / own_seconds:.1f} times as fast as the loop), "
        f"all epochs {full_seconds:.0f} s ({loop.cost.seconds / full_seconds:.1f} times)"
    )
