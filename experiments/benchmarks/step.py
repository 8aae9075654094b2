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

from benchmarks.harness import Benchmark, Outcome, Target, elapsed_seconds
from bioimg.config import TrialConfig
from bioimg.data.image_set import ImageSet, Split
from bioimg.data.splitting import split_images
from bioimg.results.result_store import ResultStore
from bioimg.training import malloc_tuning
from bioimg.training.batches import Batch, ImageBatches
from bioimg.training.feature_cache import BatchFunction
from bioimg.training.loop import train
from bioimg.training.trial_runner import TrialContext, run_trial
from bioimg.training.trial_trainer import TrialTrainer

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
MATRIX_SIDES = (1024, 2048, 4096)
"""Sides of the matrices; their fastest product is the machine's peak."""
HEAD_IMAGES, HEAD_TRAIN, HEAD_EPOCHS = 3750, 2550, 100
"""The images of the report that the project grew out of, how many of them train, and the epochs of a frozen trial."""


class ContiguousTrainer(TrialTrainer):
    """A run whose model and images have the channels first in memory, torch's default."""

    @classmethod
    def convert(cls, run: TrialTrainer) -> TrialTrainer:
        """Change a run's model before its first batch."""
        run.classifier.model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        return run

    def _make_image_batches(self) -> ImageBatches:
        pixels = super()._make_image_batches()
        return lambda batch: pixels(batch).contiguous()  # type: ignore[return-value]

    def _use_cached_features(self) -> None:
        self.convert(self)
        super()._use_cached_features()


class RandomFeatureTrainer(TrialTrainer):
    """A run whose features are random, which takes no time."""

    def _make_backbone_function(self) -> BatchFunction:
        width = self.classifier.head.in_features
        return lambda batch: torch.randn(len(batch.indices), width)


TRAINERS_BY_LAYOUT: dict[str, type[TrialTrainer]] = {
    "channels_last": TrialTrainer,
    "contiguous": ContiguousTrainer,
}


@dataclass(frozen=True, kw_only=True)
class StepBenchmark(Benchmark):
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
        malloc_tuning.keep_freed_memory()  # as a lane does
        torch.set_num_threads(self.threads)
        peaks = {name: peak_flops(dtype) for name, dtype in DTYPES.items()}
        with tempfile.TemporaryDirectory() as name:
            os.environ["BIOIMG_CACHE"] = (
                name  # features that an earlier run has left must not be found
            )
            rows, (head, whole) = list(self._rows(peaks)), self.measure_head(name)
        shares = {
            (row["work"], row["precision"], row["layout"]): row["share of peak"] for row in rows
        }
        targets = [
            Target(
                f"{work} in bfloat16",
                shares[work, "bfloat16", "channels_last"],
                limit,
                "of the matrix product's peak",
            )
            for work, limit in (("training", 0.55), ("extraction", 0.7))
        ]
        frozen = f"{HEAD_EPOCHS} epochs of a head, {HEAD_TRAIN:,} images in 8 views, batches of {self.batch_size}"
        targets.append(Target(frozen, head, 5.0, "s", at_most=True))
        notes = [
            f"{name} matrix product: {rate / 1e9:.0f} GFLOP/s (threads: {self.threads})"
            for name, rate in peaks.items()
        ]
        notes.append(f"that trial with all that it leaves on disk: {whole:.1f} s")
        return Outcome(
            f"{self.model}, {self.image_size} px, batches of {self.batch_size}",
            rows,
            targets,
            notes,
        )

    def _rows(self, peaks: dict[str, float]) -> Iterator[dict[str, Any]]:
        images = self.noise_images(self._train_image_count, self.image_size)
        forward = self._forward_flops(images)
        # a backward pass has two products for each one; torch's counter is wrong there: it takes grouped convolutions for dense
        cost = {"training": 3 * forward, "extraction": forward}
        for precision in DTYPES:
            for layout in TRAINERS_BY_LAYOUT:
                for work, measure in (
                    ("training", self.measure_training),
                    ("extraction", self.measure_extraction),
                ):
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

    def noise_images(self, train: int, size: int) -> ImageSet:
        """Noise, which takes as long as any images: the training images and two more."""
        count = train + 2
        return ImageSet(
            name="noise",
            pixels=np.random.default_rng(0).integers(
                256, size=(count, size, size, 3), dtype=np.uint8
            ),
            labels=np.arange(count) % 6,
            classes=tuple("ABCDEF"),
            paths=tuple(f"{number}.png" for number in range(count)),
            digests=tuple(map(str, range(count))),
        )

    def measure_training(self, images: ImageSet, precision: str, layout: str) -> float:
        """Images per second of an epoch."""
        run = TRAINERS_BY_LAYOUT[layout](
            self._make_trial(precision),
            images,
            _make_split(self._train_image_count),
            device=torch.device("cpu"),
        )
        if layout == "contiguous":
            ContiguousTrainer.convert(run)
        epochs = [epoch.seconds for epoch in train(run)]
        return self._train_image_count / statistics.median(epochs[1:])

    def measure_extraction(self, images: ImageSet, precision: str, layout: str) -> float:
        """Images per second of preparing a frozen trial; random weights of another seed have features of their own."""
        times = []
        for seed in range(self.repeats + 1):
            trial = self._make_trial(
                precision,
                freeze="features",
                seed=seed + 100 * list(TRAINERS_BY_LAYOUT).index(layout),
            )
            run = TRAINERS_BY_LAYOUT[layout](
                trial, images, _make_split(self._train_image_count), device=torch.device("cpu")
            )
            assert run.features_seconds is not None
            times.append(run.features_seconds)
        return (self._train_image_count + 2) / statistics.median(times[1:])

    def measure_head(self, folder: str) -> tuple[float, float]:
        """Median seconds of a frozen trial whose features exist: of its epochs alone, and of the whole trial."""
        images, device = self.noise_images(HEAD_IMAGES - 2, size=8), torch.device("cpu")
        trial = self._make_trial(
            "auto", freeze="features", augmentation="dihedral", epochs=HEAD_EPOCHS, image_size=8
        )
        RandomFeatureTrainer(
            trial, images, split_images(images, trial), device=device
        )  # stores features where the trial looks for them
        epochs, whole = [], []
        for number in range(self.repeats):
            place = TrialContext(
                experiment_name="head", store=ResultStore(f"{folder}/head-{number}"), device=device
            )
            whole.append(
                elapsed_seconds(lambda place=place: run_trial(trial, images, place, lambda _: None))
            )
            epochs += [
                row["train_seconds"] for row in place.store.tables.trial_rows("trials", trial.key)
            ]
        return statistics.median(epochs), statistics.median(whole)

    def _forward_flops(self, images: ImageSet) -> float:
        """Floating-point operations of a forward pass for an image, a multiplication and an addition being two."""
        run = TrialTrainer(
            self._make_trial("float32"),
            images,
            _make_split(self._train_image_count),
            device=torch.device("cpu"),
        )
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            run.forward(Batch(np.arange(2), np.zeros(2, dtype=np.int64)))
        return counter.get_total_flops() / 2

    def _make_trial(self, precision: str, **changes: Any) -> TrialConfig:
        known = {
            "model": self.model,
            "weights": "none",
            "image_size": self.image_size,
            "augmentation": "none",
        }
        epochs = self.repeats + 1
        return TrialConfig(
            **{
                **known,
                "batch_size": self.batch_size,
                "epochs": epochs,
                "precision": precision,
                **changes,
            }
        )

    @property
    def _train_image_count(self) -> int:
        return self.steps * self.batch_size


def _make_split(train: int) -> Split:
    """A split of so many training images and two more, one to validate on and one to test on."""
    places = np.arange(train + 2)
    return Split(train=places[:-2], val=places[-2:-1], test=places[-1:])


def peak_flops(dtype: torch.dtype) -> float:
    """The most floating-point operations per second that a product of square matrices reaches."""
    return max(2 * side**3 / _time_product(side, dtype) for side in MATRIX_SIDES)


def _time_product(side: int, dtype: torch.dtype) -> float:
    left, right = (torch.randn(side, side).to(dtype) for _ in range(2))
    multiply = functools.partial(torch.mm, left, right)
    return min(elapsed_seconds(multiply) for _ in range(5))
