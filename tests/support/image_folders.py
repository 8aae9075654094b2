"""Write data sets of noise to a folder, in each form in which a user may have them."""

import zlib
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from bioimg.config import DatasetConfig
from bioimg.data import SUBSETS, list_images
from bioimg.data.image_index import ImageIndex


def find_images(data: Path | str, **settings) -> ImageIndex:
    """List the images of a folder, table or file as a trial with some settings would."""
    return list_images(DatasetConfig(data=str(data), **settings))


def write_noise_image(path: Path, seed: int = 0, size=(12, 10), mode: str = "RGB") -> None:
    """Save noise as an image, in the format of the name's suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), np.uint8)
    Image.fromarray(noise).convert(mode).save(path)


def write_image_folder(folder: Path, classes=("a", "b"), count: int = 7, suffix=".png") -> Path:
    """Write a folder of `count` images for each class, of up to five patients."""
    for label, name in enumerate(classes):
        for number in range(count):
            path = folder / name / f"p{number % 5}_{number}{suffix}"
            write_noise_image(path, seed=100 * label + number)
    return folder


def write_class_folders(folder: Path, **counts: int) -> Path:
    """Write a folder with this many images of each class, which must not exist yet."""
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            path = folder / name / f"{number}.png"
            # no two images of a set are equal
            seed = zlib.crc32("/".join(path.parts[-3:]).encode())
            write_noise_image(path, seed=seed, size=(20, 20))
    return folder


def write_ham10000(folder: Path) -> Path:
    """Write a small set in the layout of HAM10000: ids and lesions in a table, two folders."""
    counts = {"nv": 40, "mel": 12, "bkl": 12, "bcc": 10, "akiec": 10, "vasc": 10, "df": 10}
    lines = ["lesion_id,image_id,dx,dx_type,age,sex,localization"]
    for name, count in counts.items():
        for _ in range(count):
            number = len(lines)
            # some lesions have two images
            lesion = f"HAM_{number // 4 * 4 + min(number % 4, 2):07}"
            image = f"ISIC_{24305 + number:07}"
            lines.append(f"{lesion}{name},{image},{name},histo,{number % 9}0.0,male,back")
            part = folder / f"HAM10000_images_part_{number % 2 + 1}"
            write_noise_image(part / f"{image}.jpg", seed=number, size=(20, 15))
    (folder / "HAM10000_metadata.csv").write_text("\n".join(lines) + "\n")
    return folder / "HAM10000_metadata.csv"


def write_tiff(path: Path, pixels: np.ndarray, **options) -> Path:
    tifffile.imwrite(path, pixels, **options)
    return path


def write_tiff_folder(folder: Path, scale: float = 1, dtype=np.uint16) -> Path:
    """Write ten noisy TIFF files of each of two classes: values from 100 to 4000, scaled."""
    for label, name in enumerate("ab"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(10):
            noise = np.random.default_rng(100 * label + number).integers(100, 4000, (16, 16))
            write_tiff(folder / name / f"{number}.tif", (noise * scale).astype(dtype))
    return folder


def write_grey_tiff_folder(folder: Path) -> Path:
    """Write grey 16-bit tiles of two classes, one brighter than the other."""
    for label, level in (("dark", 9000), ("bright", 30000)):
        (folder / label).mkdir(parents=True)
        for number in range(20):
            noise = np.random.default_rng(number).normal(level, 3000, (40, 40)).clip(0, 65535)
            write_tiff(folder / label / f"{number}.tif", noise.astype(np.uint16))
    return folder


def medmnist_arrays(count=20, shape=(9, 9), dtype=np.uint8, classes=2) -> dict[str, np.ndarray]:
    """Return the arrays of a file as MedMNIST has them, with `count` images in each subset."""
    rng = np.random.default_rng(0)
    content = {}
    for name in SUBSETS:
        content[f"{name}_images"] = rng.integers(0, 250, (count, *shape)).astype(dtype)
        content[f"{name}_labels"] = (np.arange(count) % classes)[:, None].astype(np.uint8)
    return content
