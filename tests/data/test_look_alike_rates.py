"""How often copies are found and different images are not: the figures of `MAX_DISTANCE`.

`pytest -s -m nightly tests/data/test_look_alike_rates.py` prints them.
"""

import io
from functools import partial

import numpy as np
import pytest
from PIL import Image

from bioimg.data.decoding.channels import resize_square
from bioimg.data.look_alikes import number_look_alikes
from support.drawn_images import draw_cells, draw_dark_noise, draw_spots, draw_textures

SIZE = 64
COUNT = 300
SEEDS = range(3)
KINDS = {
    "textures": draw_textures,
    "dark noise": draw_dark_noise,
    "spots": draw_spots,
    "cell": draw_cells,
    "smooth cell": partial(draw_cells, noise=0),
    "cell anywhere": partial(draw_cells, centred=False),
    "several cells": partial(draw_cells, centred=False, cells=6),
}


def save_as_jpeg(image, quality):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def halve(image):
    """Return an image as it is read from a file of half the size."""
    return resize_square(resize_square(image, SIZE // 2, "resize"), SIZE, "resize")


CHANGES = {
    "turned": np.rot90,
    "mirrored": np.fliplr,
    "JPEG 90": partial(save_as_jpeg, quality=90),
    "JPEG 70": partial(save_as_jpeg, quality=70),
    "half size": halve,
    "brighter": lambda image: (image * 1.1).clip(0, 255).astype(np.uint8),
}


def number(images):
    return number_look_alikes(images, list(map(str, range(len(images)))))


def count_false_alarms(images):
    """Return how many different images look like another one."""
    _, counts = np.unique(number(images), return_counts=True)
    return int(counts[counts > 1].sum())


def measure_rates(sets):
    """Return the share of copies found by change, and the false alarms in full and half size."""
    found = {}
    for name, change in CHANGES.items():
        hits = []
        for images in sets:
            numbers = number(np.concatenate([images, np.stack([*map(change, images)])]))
            hits.append(numbers[: len(images)] == numbers[len(images) :])
        found[name] = float(np.concatenate(hits).mean())
    full = sum(map(count_false_alarms, sets))
    half = sum(count_false_alarms(np.stack([*map(halve, images)])) for images in sets)
    return found, full, half


def print_rates(kind, found, full, half):
    shares = ", ".join(f"{name} {share:.1%}" for name, share in found.items())
    print(f"\n{kind}: found {shares}; false alarms {full}, in half size {half}")


@pytest.mark.nightly
@pytest.mark.parametrize("kind", KINDS)
def test_drawn_copies_are_found_and_different_images_are_not(kind):
    found, full, half = measure_rates([KINDS[kind](COUNT, seed, SIZE) for seed in SEEDS])
    print_rates(kind, found, full, half)
    assert min(found["turned"], found["mirrored"]) > 0.99
    assert full <= 0.01 * COUNT * len(SEEDS)
    assert half <= 0.01 * COUNT * len(SEEDS)


@pytest.mark.nightly
def test_copies_of_tiles_are_found_and_different_tiles_are_not(tiles):
    images = []
    for path in sorted(tiles.glob("*/*.tif")):
        pixels = np.asarray(Image.open(path).convert("RGB"))
        images.append(resize_square(pixels, SIZE, "resize"))
    found, full, half = measure_rates([np.stack(images)])
    print_rates("tiles", found, full, half)
    assert min(found.values()) > 0.99
    assert (full, half) == (0, 0)
