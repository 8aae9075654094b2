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
from bioimg.config import TrialConfig
from bioimg.data import load_image_set
from bioimg.data.image_set import PixelsByPath
from bioimg.data.synthetic_tissue import draw_phantom


@dataclass(frozen=True, kw_only=True)
class DecodingBenchmark(Benchmark):
    """Decoding, compared with torchvision's ImageFolder with as many processes, and a second start, which decodes nothing.

    Both resize to 150 px. The first run in a process also starts its workers and is shown separately; targets use later runs.
    """

    folder: Path | None = None
    """images to decode; by default the phantom, enlarged"""
    repeats: int = 3
    """runs of which the median is taken"""

    def run(self) -> Outcome:
        with tempfile.TemporaryDirectory() as temporary:
            images = self.folder or write_enlarged_phantom(Path(temporary) / "images")
            os.environ["BIOIMG_CACHE"] = str(Path(temporary) / "cache")
            trial = TrialConfig(data=str(images), image_size=150)
            ours, decoded, again = [], [], []
            for _ in range(self.repeats + 1):
                shutil.rmtree(os.environ["BIOIMG_CACHE"], ignore_errors=True)
                ours.append(elapsed_seconds(lambda: load_image_set(trial)))
                again.append(
                    elapsed_seconds(
                        lambda: load_image_set(trial, lambda done, total: decoded.append(done))
                    )
                )
            theirs = [
                elapsed_seconds(lambda: _read_with_image_folder(images))
                for _ in range(self.repeats)
            ]
            count = len(load_image_set(trial))
        usual, imagefolder = statistics.median(ours[1:]), statistics.median(theirs)
        rows = [
            {"": "bioimg, first run in a process", "images/s": count / ours[0]},
            {"": "bioimg", "images/s": count / usual},
            {"": "torchvision's ImageFolder", "images/s": count / imagefolder},
            {"": "bioimg, second start", "images/s": count / statistics.median(again)},
        ]
        targets = [
            Target("decoding", usual / imagefolder, 1.0, "of ImageFolder's time", at_most=True),
            Target("a second start", len(decoded), 0, "images decoded", at_most=True),
        ]
        return Outcome(
            f"{count} images from {self.folder.name if self.folder else 'the phantom, 600 px JPEG'}",
            rows,
            targets,
        )


def write_enlarged_phantom(folder: Path) -> Path:
    """The phantom as JPEG files of 600 px."""
    for path, tile in PixelsByPath(draw_phantom()).items():
        file = (folder / path).with_suffix(".jpg")
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(tile).resize((600, 600)).save(file, quality=90)
    return folder


def _read_with_image_folder(folder: Path) -> None:
    read = ImageFolder(str(folder), v2.Compose([v2.Resize((150, 150)), v2.PILToTensor()]))
    for _ in DataLoader(read, batch_size=64, num_workers=os.cpu_count() or 1):
        pass
