"""Decoding, compared with what a user would decode with."""

import os
import shutil
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from benchmarks.harness import Benchmark, Outcome, Target, elapsed_seconds
from bioimg.config import DatasetConfig
from bioimg.data import load_dataset
from bioimg.data.image_set import PixelsByPath

IMAGE_SIZE = 150
ENLARGED_SIZE = 600


@dataclass(frozen=True, kw_only=True)
class DecodingBenchmark(Benchmark):
    """Decoding, compared with torchvision's ImageFolder with as many processes, and a second start.

    Both resize to 150 px. A second start decodes nothing. The first run in a process also starts
    its workers and is shown separately; targets use later runs.
    """

    folder: Path | None = None
    """images to decode; by default the synthetic ones, enlarged"""
    repeats: int = 3
    """runs of which the median is taken"""

    def run(self) -> Outcome:
        with tempfile.TemporaryDirectory() as temporary:
            images = self.folder or write_enlarged_images(Path(temporary) / "images")
            config = DatasetConfig(data=str(images), image_size=IMAGE_SIZE)
            first_starts, second_starts, decoded_again = self._time_starts(
                config, Path(temporary) / "cache"
            )
            image_folder = [
                elapsed_seconds(lambda: _read_with_image_folder(images))
                for _ in range(self.repeats)
            ]
            count = len(load_dataset(config).images)
        warm_seconds = statistics.median(first_starts[1:])
        image_folder_seconds = statistics.median(image_folder)
        ratio = warm_seconds / image_folder_seconds
        rates = {
            "bioimg, first run in a process": count / first_starts[0],
            "bioimg": count / warm_seconds,
            "torchvision's ImageFolder": count / image_folder_seconds,
            "bioimg, second start": count / statistics.median(second_starts),
        }
        source = self.folder.name if self.folder else "the synthetic images, 600 px JPEG"
        return Outcome(
            f"{count} images from {source}",
            [{"": name, "images/s": rate} for name, rate in rates.items()],
            [
                Target("decoding", ratio, 1.0, "of ImageFolder's time", at_most=True),
                Target("a second start", decoded_again, 0, "images decoded", at_most=True),
            ],
        )

    def _time_starts(
        self, config: DatasetConfig, cache: Path
    ) -> tuple[list[float], list[float], int]:
        """Load the images with an empty cache and again, several times.

        Returns:
            The seconds of the first and of the second loads, and how often the latter decoded.
        """
        os.environ["BIOIMG_CACHE"] = str(cache)
        first_starts, second_starts = [], []
        decoded_again: list[int] = []

        def load() -> None:
            load_dataset(config)

        def load_again() -> None:
            load_dataset(config, progress=lambda done, total: decoded_again.append(done))

        for _ in range(self.repeats + 1):
            shutil.rmtree(cache, ignore_errors=True)
            first_starts.append(elapsed_seconds(load))
            second_starts.append(elapsed_seconds(load_again))
        return first_starts, second_starts, len(decoded_again)


def write_enlarged_images(folder: Path) -> Path:
    """Write the synthetic images as JPEG files of 600 px."""
    synthetic = load_dataset(DatasetConfig(data="phantom", image_size=64)).images
    for path, pixels in PixelsByPath(synthetic).items():
        file = (folder / path).with_suffix(".jpg")
        file.parent.mkdir(parents=True, exist_ok=True)
        enlarged = Image.fromarray(pixels).resize((ENLARGED_SIZE, ENLARGED_SIZE))
        enlarged.save(file, quality=90)
    return folder


def _read_with_image_folder(folder: Path) -> None:
    transform = v2.Compose([v2.Resize((IMAGE_SIZE, IMAGE_SIZE)), v2.PILToTensor()])
    images = ImageFolder(str(folder), transform)
    for _ in DataLoader(images, batch_size=64, num_workers=os.cpu_count() or 1):
        pass
