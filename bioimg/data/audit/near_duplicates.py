"""Near duplicates: images that look the same, though some pixels differ."""

from pathlib import Path

import imagehash
import numpy as np
from PIL import Image

from bioimg.data.image_set import ImageSet
from bioimg.storage import disk_cache

MAX_DISTANCE_BITS = 4
"""Number of the 64 bits in which the perceptual hashes of two images may differ. None of the 87,990 pairs among 420 tiles of
Kather 2016 is within 10; the same tile saved as JPEG of quality 70, shrunk to two thirds or made 10 % brighter is within 4."""
BLOCK_IMAGES = 512


def find_near_duplicates(images: ImageSet) -> np.ndarray:
    """Index pairs, int64 [P, 2], of images that look the same but aren't identical, by imagehash's DCT hash."""
    bits = _perceptual_hashes(images) * np.float32(2) - 1
    pairs = []
    for start in range(0, len(bits), BLOCK_IMAGES):
        agreeing = bits[start : start + BLOCK_IMAGES] @ bits.T  # 64 - 2 * distance
        left, right = np.nonzero(agreeing >= bits.shape[1] - 2 * MAX_DISTANCE_BITS)
        pairs += [
            (a, b) for a, b in zip((left + start).tolist(), right.tolist(), strict=True) if a < b
        ]
    differing = [(a, b) for a, b in pairs if images.digests[a] != images.digests[b]]
    return np.array(differing, np.int64).reshape(-1, 2)


def _perceptual_hashes(images: ImageSet) -> np.ndarray:
    """uint8 [N, 64] of 0 and 1, cached as pixels are."""

    def write(folder: Path) -> None:
        np.save(
            folder / "bits.npy",
            np.stack([_hash_image(images.pixels[i]) for i in range(len(images))]),
        )

    name = (
        f"alike/{disk_cache.cache_key(images.digests, images.pixels.shape, images.scaling_limits)}"
    )
    about = f"{len(images)} perceptual hashes of {images.name}, used by `bioimg data` to find images that look alike"
    return np.load(disk_cache.get_or_create(name, write, about) / "bits.npy")


def _hash_image(pixels: np.ndarray) -> np.ndarray:
    return imagehash.phash(Image.fromarray(pixels)).hash.reshape(-1).astype(np.uint8)
