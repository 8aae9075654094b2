"""Near duplicates: images that look the same, though some pixels differ."""

from pathlib import Path

import imagehash
import numpy as np
from PIL import Image

from bioimg.data.image_set import ImageSet
from bioimg.storage import disk_cache

MAX_DISTANCE_BITS = 4
"""Number of the 64 bits in which the perceptual hashes of two images may differ.

None of the 87,990 pairs among 420 tiles of Kather 2016 is within 10. The same tile saved as JPEG of
quality 70, shrunk to two thirds or made 10 % brighter is within 4.
"""
BLOCK_IMAGES = 512


def find_near_duplicates(images: ImageSet) -> np.ndarray:
    """Return index pairs, int64 [P, 2], of images that look the same but aren't identical.

    They are found by imagehash's DCT hash. Of exact copies, only the first is compared.
    """
    # with bits of -1 and 1, the product of two hashes is 64 - 2 * distance
    _, unique_rows = np.unique(images.digests, return_index=True)
    unique_rows.sort()
    signs = _perceptual_hashes(images)[unique_rows] * np.float32(2) - 1
    min_product = signs.shape[1] - 2 * MAX_DISTANCE_BITS
    pairs = []
    for start in range(0, len(signs), BLOCK_IMAGES):
        products = signs[start : start + BLOCK_IMAGES] @ signs.T
        rows, columns = np.nonzero(products >= min_product)
        in_order = rows + start < columns
        pairs.append(np.stack([rows[in_order] + start, columns[in_order]], axis=1))
    return unique_rows[np.concatenate(pairs)]


def _perceptual_hashes(images: ImageSet) -> np.ndarray:
    """Return uint8 [N, 64] of 0 and 1, cached as pixels are."""

    def write(folder: Path) -> None:
        hashes = [_hash_image(images.pixels[row]) for row in range(len(images))]
        np.save(folder / "bits.npy", np.stack(hashes))

    key = disk_cache.cache_key(images.digests, images.pixels.shape, images.scaling_limits)
    description = (
        f"{len(images)} perceptual hashes of {images.name}, used by `bioimg data` to find images "
        "that look alike"
    )
    folder = disk_cache.get_or_create(f"alike/{key}", write, description)
    return np.load(folder / "bits.npy")


def _hash_image(pixels: np.ndarray) -> np.ndarray:
    return imagehash.phash(Image.fromarray(pixels)).hash.reshape(-1).astype(np.uint8)
