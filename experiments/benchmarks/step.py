"""How much of the machine's peak training steps and feature extraction reach."""

import functools
import os
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.frame import Outcome, Part, Target, seconds
from bioimg.config import TrialConfig
from bioimg.data.imageset import ImageSet, Split
from bioimg.data.split import split
from bioimg.results.store import Store
from bioimg.training import memory
from bioimg.training.batches import Batch, Pixels
from bioimg.training.features import Compute
from bioimg.training.loop import train
from bioimg.training.run import Run
from bioimg.training.trial import Place, run_trial

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
PRODUCTS = (1024, 2048, 4096)
"""Sides of the matrices; their fastest product is the machine's peak."""
HEAD_IMAGES, HEAD_TRAIN, HEAD_EPOCHS = 3750, 2550, 100
"""The images of the report that the project grew out of, how many of them train, and the epochs of a frozen trial."""


class Contiguous(Run):
    """A run whose model and images have the channels first in memory, torch's default."""

    @classmethod
    def of(cls, run: Run) -> Run:
        """Change a run's model before its first batch."""
        run.classifier.model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        return run

    def _pixels(self) -> Pixels:
        pixels = super()._pixels()
        return lambda batch: pixels(batch).contiguous()  # type: ignore[return-value]

    def _freeze_features(self) -> None:
        self.of(self)
        super()._freeze_features()


class Drawn(Run):
    """A run whose features are random, which takes no time."""

    def _backbone(self) -> Compute:
        width = self.classifier.head.in_features
        return lambda batch: torch.randn(len(batch.indices), width)


LAYOUTS: dict[str, type[Run]] = {"channels_last": Run, "contiguous": Contiguous}


@dataclass(frozen=True, kw_only=True)
class Step(Part):
    """Images per second of training and of feature extraction, and the share of the machine's matrix-product peak that they
    reach, by precision and memory layout. And the time of a frozen trial once its features exist.

    All use the code of trials: an epoch of `bioimg.training.loop.train` (which validates on one image), and the features that
    a frozen trial is prepared with. Peaks are those of `torch.mm` in the same run with the same threads.
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
        memory.keep()  # as a lane does
        torch.set_num_threads(self.threads)
        peaks = {name: peak(dtype) for name, dtype in DTYPES.items()}
        with tempfile.TemporaryDirectory() as name:
            os.environ["BIOIMG_CACHE"] = name  # features that an earlier run has left must not be found
            rows, (head, whole) = list(self._rows(peaks)), self.head(name)
        shares = {(row["work"], row["precision"], row["layout"]): row["share of peak"] for row in rows}
        targets = [
            Target(f"{work} in bfloat16", shares[work, "bfloat16", "channels_last"], limit, "of the matrix product's peak")
            for work, limit in (("training", 0.55), ("extraction", 0.7))
        ]
        frozen = f"{HEAD_EPOCHS} epochs of a head, {HEAD_TRAIN:,} images in 8 views, batches of {self.batch_size}"
        targets.append(Target(frozen, head, 5.0, "s", at_most=True))
        notes = [f"{name} matrix product: {rate / 1e9:.0f} GFLOP/s (threads: {self.threads})" for name, rate in peaks.items()]
        notes.append(f"that trial with all that it leaves on disk: {whole:.1f} s")
        return Outcome(f"{self.model}, {self.image_size} px, batches of {self.batch_size}", rows, targets, notes)

    def _rows(self, peaks: dict[str, float]) -> Iterator[dict[str, Any]]:
        images = self.images(self._count, self.image_size)
        forward = self._flops(images)
        # a backward pass has two products for each one; torch's counter is wrong there: it takes grouped convolutions for dense
        cost = {"training": 3 * forward, "extraction": forward}
        for precision in DTYPES:
            for layout in LAYOUTS:
                for work, measure in (("training", self.training), ("extraction", self.extraction)):
                    rate = measure(images, precision, layout)
                    yield {
                        "work": work,
                        "precision": precision,
                        "layout": layout,
                        "images/s": rate,
                        "GFLOP per image": cost[work] / 1e9,
                        "peak GFLOP/s": peaks[precision] / 1e9,
                        "share of peak": rate * cost[work] / peaks[precision],
                    }

    def images(self, train: int, size: int) -> ImageSet:
        """Noise, which takes as long as any images: the training images and two more."""
        count = train + 2
        return ImageSet(
            name="noise",
            pixels=np.random.default_rng(0).integers(256, size=(count, size, size, 3), dtype=np.uint8),
            labels=np.arange(count) % 6,
            classes=tuple("ABCDEF"),
            paths=tuple(f"{number}.png" for number in range(count)),
            digests=tuple(map(str, range(count))),
        )

    def training(self, images: ImageSet, precision: str, layout: str) -> float:
        """Images per second of an epoch."""
        run = LAYOUTS[layout](self._trial(precision), images, _split(self._count), device=torch.device("cpu"))
        if layout == "contiguous":
            Contiguous.of(run)
        epochs = [epoch.seconds for epoch in train(run)]
        return self._count / statistics.median(epochs[1:])

    def extraction(self, images: ImageSet, precision: str, layout: str) -> float:
        """Images per second of preparing a frozen trial; random weights of another seed have features of their own."""
        times = []
        for seed in range(self.repeats + 1):
            trial = self._trial(precision, freeze="features", seed=seed + 100 * list(LAYOUTS).index(layout))
            run = LAYOUTS[layout](trial, images, _split(self._count), device=torch.device("cpu"))
            assert run.features_seconds is not None
            times.append(run.features_seconds)
        return (self._count + 2) / statistics.median(times[1:])

    def head(self, folder: str) -> tuple[float, float]:
        """Median seconds of a frozen trial whose features exist: of its epochs alone, and of the whole trial."""
        images, device = self.images(HEAD_IMAGES - 2, size=8), torch.device("cpu")
        trial = self._trial("auto", freeze="features", augmentation="dihedral", epochs=HEAD_EPOCHS, image_size=8)
        Drawn(trial, images, split(images, trial), device=device)  # stores features where the trial looks for them
        epochs, whole = [], []
        for number in range(self.repeats):
            place = Place(experiment="head", store=Store(f"{folder}/head-{number}"), device=device)
            whole.append(seconds(lambda place=place: run_trial(trial, images, place, lambda _: None)))
            epochs += [row["train_seconds"] for row in place.store.tables.rows("trials", trial.key)]
        return statistics.median(epochs), statistics.median(whole)

    def _flops(self, images: ImageSet) -> float:
        """Floating-point operations of a forward pass for an image, a multiplication and an addition being two."""
        run = Run(self._trial("float32"), images, _split(self._count), device=torch.device("cpu"))
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            run.forward(Batch(np.arange(2), np.zeros(2, dtype=np.int64)))
        return counter.get_total_flops() / 2

    def _trial(self, precision: str, **changes: Any) -> TrialConfig:
        known = {"model": self.model, "weights": "none", "image_size": self.image_size, "augmentation": "none"}
        epochs = self.repeats + 1
        return TrialConfig(**{**known, "batch_size": self.batch_size, "epochs": epochs, "precision": precision, **changes})

    @property
    def _count(self) -> int:
        return self.steps * self.batch_size


def _split(train: int) -> Split:
    """A split of so many training images and two more, one to validate on and one to test on."""
    places = np.arange(train + 2)
    return Split(train=places[:-2], val=places[-2:-1], test=places[-1:])


def peak(dtype: torch.dtype) -> float:
    """The most floating-point operations per second that a product of square matrices reaches."""
    return max(2 * side**3 / _product(side, dtype) for side in PRODUCTS)


def _product(side: int, dtype: torch.dtype) -> float:
    left, right = (torch.randn(side, side).to(dtype) for _ in range(2))
    multiply = functools.partial(torch.mm, left, right)
    return min(seconds(multiply) for _ in range(5))
