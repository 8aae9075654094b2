"""A set of many images, from its first look to its report: time and memory."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.harness import Benchmark, Outcome, Target
from benchmarks.process_tree import measure_python

COMMAND = "from bioimg.cli.main import run_bioimg; run_bioimg()"
RECIPE = ("--model", "resnext_tiny", "--weights", "TEXTURES_V2", "--freeze", "features")
BLOB_PX = 8
"""Size of the noise that is enlarged to an image, so that images differ and are smooth."""


@dataclass(frozen=True, kw_only=True)
class LargeSetBenchmark(Benchmark):
    """Many small images: `bioimg data`, one frozen recipe on lanes, and `bioimg report`."""

    images: int = 100_000
    """number of images, in two classes"""
    pixels: int = 32
    """their size, as JPEG"""
    image_size: int = 32
    """size to which they are decoded"""

    def run(self) -> Outcome:
        with tempfile.TemporaryDirectory() as folder:
            images = self._write_images(Path(folder) / "images")
            results = str(Path(folder) / "results")
            size = ("--image-size", str(self.image_size))
            trial = ("--epochs", "2", "--batch-size", "64", "--augmentation", "none")
            trial += ("--learning-rate", "5e-4")
            commands = {
                "bioimg data": ("data", images, *size, "--contact-sheet", "None"),
                "bioimg compare": ("compare", images, *size, *RECIPE, *trial, "--out", results),
                "bioimg report": ("report", results),
            }
            rows = []
            for name, arguments in commands.items():
                cost = measure_python(
                    ["-c", COMMAND, *arguments], BIOIMG_CACHE=str(Path(folder) / "cache")
                )
                gib = cost.peak_memory / 2**30
                rows.append({"command": name, "seconds": cost.seconds, "GiB": gib})
        peak = max(row["GiB"] for row in rows)
        target = Target("the most memory of all processes", peak, 8, "GiB", at_most=True)
        title = f"{self.images} JPEG of {self.pixels} px, decoded to {self.image_size} px"
        return Outcome(title, rows, [target])

    def _write_images(self, folder: Path) -> str:
        generator = np.random.default_rng(0)
        for label in "ab":
            (folder / label).mkdir(parents=True)
        for number in range(self.images):
            label = number % 2
            noise = generator.integers(256, size=(BLOB_PX, BLOB_PX, 3), dtype=np.uint8)
            # one class is darker
            noise //= 1 + label
            image = Image.fromarray(noise).resize(
                (self.pixels, self.pixels), Image.Resampling.BICUBIC
            )
            image.save(folder / "ab"[label] / f"{number:06}.jpg", quality=85)
        return str(folder)
