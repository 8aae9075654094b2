"""How much of the machine's peak training steps and feature extraction reach, on its device."""

import functools
import os
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.harness import (
    Benchmark,
    Outcome,
    Target,
    elapsed_seconds,
    gpu_name,
    local_device,
)
from bioimg import malloc_tuning
from bioimg.config import TrialConfig
from bioimg.data.image_set import Dataset, ImageSet, Split
from bioimg.data.splitting import split_images
from bioimg.models.classifier import build_classifier
from bioimg.models.model_source import find_model_source
from bioimg.results.result_store import ResultStore
from bioimg.training import precision
from bioimg.training.batches import Batch, InputSource
from bioimg.training.evaluation import BatchFunction
from bioimg.training.frozen_backbone import FrozenBackbone
from bioimg.training.loop import train
from bioimg.training.trial_recorder import TrialContext
from bioimg.training.trial_runner import run_trial
from bioimg.training.trial_trainer import TrialTrainer

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
LAYOUTS = ("channels_last", "contiguous")
"""Memory formats of images and weights: that of trials, and torch's default."""
MATRIX_SIDES = (1024, 2048, 4096)
"""Sides of the matrices; their fastest product is the machine's peak."""
PRODUCT_REPEATS = 5
HEAD_IMAGES = 3750
"""Images of the report that the project grew out of."""
HEAD_TRAIN = 2550
"""How many of them train."""
HEAD_EPOCHS = 100
"""Epochs of a frozen trial."""


class ContiguousImages:
    """An input source with the channels first in memory."""

    def __init__(self, source: InputSource) -> None:
        self._source = source

    def load_batch(self, batch: Batch) -> torch.Tensor:
        return self._source.load_batch(batch).contiguous()


class ContiguousBackbone(FrozenBackbone):
    """A backbone whose images have the channels first in memory."""

    def make_image_batches(self) -> InputSource:
        return ContiguousImages(super().make_image_batches())


class RandomBackbone(FrozenBackbone):
    """A backbone whose features are random, which takes no time."""

    def make_batch_function(self) -> BatchFunction:
        width = self.classifier.head.in_features
        return lambda batch: torch.randn(len(batch.indices), width, device=self.device)


@dataclass(frozen=True, kw_only=True)
class StepBenchmark(Benchmark):
    """Training and feature extraction: images per second, and the share of the machine's peak.

    The peak is that of matrix products in the same run with the same threads. Both precisions and
    memory layouts are measured, and the time of a frozen trial once its features exist.

    All use the code of trials: an epoch of `bioimg.training.loop.train` (which validates on one
    image), and the features that a frozen trial is prepared with.
    """

    model: str = "resnext50_32x4d"
    """name of a torchvision classifier"""
    image_size: int = 150
    """side length of the images, in pixels"""
    batch_size: int = 32
    """images per training step"""
    steps: int = 4
    """training steps in an epoch; features are extracted from as many images"""
    repeats: int = 3
    """epochs, and extractions, after one to warm up; medians are shown"""
    threads: int = 1
    """threads; a lane on a CPU has one"""

    def run(self) -> Outcome:
        malloc_tuning.keep_freed_memory()  # as a lane does
        torch.set_num_threads(self.threads)
        peaks = {name: peak_flops(dtype) for name, dtype in DTYPES.items()}
        with tempfile.TemporaryDirectory() as folder:
            # features of an earlier run must not be found
            os.environ["BIOIMG_CACHE"] = folder
            rows = self._measure_rows(peaks)
            head_seconds, trial_seconds = self.measure_head(folder)
        notes = [
            f"{name} matrix product: {peak / 1e9:.0f} GFLOP/s (threads: {self.threads})"
            for name, peak in peaks.items()
        ]
        notes.append(f"that trial with all that it leaves on disk: {trial_seconds:.1f} s")
        title = f"{self.model}, {self.image_size} px, batches of {self.batch_size}"
        if name := gpu_name():
            title += f", on {name}"
        targets = [*share_targets(rows, local_device()), self._head_target(head_seconds)]
        return Outcome(title, rows, targets, notes)

    def _measure_rows(self, peaks: dict[str, float]) -> list[dict[str, Any]]:
        images = noise_images(self._train_images + 2, self.image_size)
        flops = self._forward_flops(images)
        rows = []
        for dtype_name in DTYPES:
            for layout in LAYOUTS:
                # A backward pass has two products for each one of the forward pass. torch's counter
                # is wrong there: it treats grouped convolutions as dense.
                rate = self.measure_training(images, dtype_name, layout)
                rows.append(_row("training", dtype_name, layout, rate, 3 * flops, peaks))
                rate = self.measure_extraction(images, dtype_name, layout)
                rows.append(_row("extraction", dtype_name, layout, rate, flops, peaks))
        return rows

    def _head_target(self, seconds: float) -> Target:
        head = (
            f"{HEAD_EPOCHS} epochs of a head, {HEAD_TRAIN:,} images in 8 views, "
            f"batches of {self.batch_size}"
        )
        return Target(head, seconds, 5.0, "s", at_most=True)

    def measure_training(self, images: ImageSet, dtype_name: str, layout: str) -> float:
        """Return the images per second of an epoch."""
        trainer = TrialTrainer(
            self._make_trial(dtype_name), images, self._split, device=local_device()
        )
        if layout == "contiguous":
            trainer.input_source = ContiguousImages(trainer.input_source)
            trainer.classifier.model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        seconds = [epoch.seconds for epoch in train(trainer)]
        return self._train_images / statistics.median(seconds[1:])

    def measure_extraction(self, images: ImageSet, dtype_name: str, layout: str) -> float:
        """Return the images per second of preparing the features of a frozen trial.

        Each time, random weights of another seed have features of their own.
        """
        kind = ContiguousBackbone if layout == "contiguous" else FrozenBackbone
        trial = self._make_trial(dtype_name, freeze="features")
        seconds = []
        for number in range(self.repeats + 1):
            seed = 100 * LAYOUTS.index(layout) + number
            backbone = make_backbone(kind, replace(trial, seed=seed), images)
            if layout == "contiguous":
                backbone.classifier.model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
            seconds.append(elapsed_seconds(lambda b=backbone: b.load_features(self._split)))
        return len(images) / statistics.median(seconds[1:])

    def measure_head(self, folder: str) -> tuple[float, float]:
        """Return the median seconds of a frozen trial whose features exist.

        The first figure is of its epochs alone, the second one of the whole trial.
        """
        images = noise_images(HEAD_IMAGES, size=8)
        trial = self._make_trial(
            "auto", freeze="features", augmentation="dihedral", epochs=HEAD_EPOCHS, image_size=8
        )
        # stores features where the trial looks for them
        backbone = make_backbone(RandomBackbone, trial, images)
        split = split_images(images, trial.split_config)
        backbone.load_features(split)
        dataset = Dataset(images=images, split=split)
        epoch_seconds, trial_seconds = [], []
        for number in range(self.repeats):
            store = ResultStore(f"{folder}/head-{number}")
            context = TrialContext(experiment_name="head", store=store, device=local_device())
            started = time.perf_counter()
            run_trial(trial, dataset, context, lambda _: None)
            trial_seconds.append(time.perf_counter() - started)
            (row,) = store.tables.trial_rows("trials", trial.key)
            epoch_seconds.append(row["train_seconds"])
        return statistics.median(epoch_seconds), statistics.median(trial_seconds)

    def _forward_flops(self, images: ImageSet) -> float:
        """Return the floating-point operations of a forward pass for an image.

        A multiplication and an addition count as two.
        """
        trainer = TrialTrainer(
            self._make_trial("float32"), images, self._split, device=local_device()
        )
        two_images = Batch(np.arange(2), np.zeros(2, dtype=np.int64))
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            trainer.forward(two_images)
        return counter.get_total_flops() / 2

    def _make_trial(self, dtype_name: str, **changes: Any) -> TrialConfig:
        trial = TrialConfig(
            model=self.model,
            weights="none",
            image_size=self.image_size,
            augmentation="none",
            batch_size=self.batch_size,
            epochs=self.repeats + 1,
            precision=dtype_name,
        )
        return replace(trial, **changes)

    @property
    def _train_images(self) -> int:
        return self.steps * self.batch_size

    @property
    def _split(self) -> Split:
        return split_in_order(self._train_images)


def share_targets(rows: Sequence[Mapping[str, Any]], device: torch.device) -> list[Target]:
    """Return the targets for shares of the peak. A GPU has none: there, memory limits a step."""
    if device.type == "cuda":
        return []
    targets = []
    for work, limit in (("training", 0.55), ("extraction", 0.7)):
        (row,) = (
            row
            for row in rows
            if (row["work"], row["precision"], row["layout"]) == (work, "bfloat16", "channels_last")
        )
        unit = "of the matrix product's peak"
        targets.append(Target(f"{work} in bfloat16", row["share of peak"], limit, unit))
    return targets


def noise_images(count: int, size: int) -> ImageSet:
    """Draw images of noise, which take as long as any others."""
    generator = np.random.default_rng(0)
    return ImageSet(
        name="noise",
        pixels=generator.integers(256, size=(count, size, size, 3), dtype=np.uint8),
        labels=np.arange(count) % 6,
        classes=tuple("ABCDEF"),
        paths=tuple(f"{number}.png" for number in range(count)),
        digests=tuple(map(str, range(count))),
    )


def split_in_order(train: int, val: int = 1, test: int = 1) -> Split:
    """Divide images by their order: so many to train, to validate and to test."""
    indices = np.arange(train + val + test)
    return Split(
        train=indices[:train],
        val=indices[train : train + val],
        test=indices[train + val :],
        leaks_groups=None,
        duplicate_count=0,
        look_alike_count=0,
        leaked_pattern=None,
        fingerprint="",
    )


def make_backbone(
    kind: type[FrozenBackbone], trial: TrialConfig, images: ImageSet
) -> FrozenBackbone:
    """Build a trial's backbone as `TrialTrainer` does."""
    classifier = build_classifier(trial.model_config, len(images.classes), seed=trial.seed)
    classifier.model.to(local_device(), memory_format=torch.channels_last)  # type: ignore[call-overload]
    return kind(
        trial=trial,
        images=images,
        classifier=classifier,
        normalisation=find_model_source(trial.model).normalisation(trial.weights),
        dtype=precision.resolve_dtype(trial.precision, local_device()),
        device=local_device(),
    )


def peak_flops(dtype: torch.dtype) -> float:
    """Return the most floating-point operations per second of a product of square matrices."""
    return max(product_flops(side, dtype) for side in MATRIX_SIDES)


def product_flops(side: int, dtype: torch.dtype) -> float:
    """Return the floating-point operations per second of a product of matrices of this side."""
    shape, device = (side, side), local_device()
    left, right = (torch.randn(shape, device=device).to(dtype) for _ in range(2))
    multiply = functools.partial(torch.mm, left, right)
    return 2 * side**3 / min(elapsed_seconds(multiply) for _ in range(PRODUCT_REPEATS))


def _row(
    work: str, dtype_name: str, layout: str, rate: float, flops: float, peaks: dict[str, float]
) -> dict[str, Any]:
    return {
        "work": work,
        "precision": dtype_name,
        "layout": layout,
        "images/s": rate,
        "GFLOP per image": flops / 1e9,
        "peak GFLOP/s": peaks[dtype_name] / 1e9,
        "share of peak": rate * flops / peaks[dtype_name],
    }
