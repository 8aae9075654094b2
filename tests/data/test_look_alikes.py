"""Which images look the same: turned and changed copies do, different images don't."""

import io

import numpy as np
import pytest
from PIL import Image

from bioimg.config import DatasetConfig, SplitConfig
from bioimg.data import load_dataset
from bioimg.data.look_alikes import number_look_alikes
from support.drawn_images import SIZE, draw_cells, draw_dark_noise, draw_spots, draw_textures


def number(images):
    return number_look_alikes(images, list(map(str, range(len(images)))))


def save_as_jpeg(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=70)
    return np.asarray(Image.open(buffer))


def shrink(image):
    small = Image.fromarray(image).resize((2 * SIZE // 3,) * 2, Image.Resampling.BILINEAR)
    return np.asarray(small.resize((SIZE, SIZE), Image.Resampling.BILINEAR))


def brighten(image):
    return (image * 1.1).clip(0, 255).astype(np.uint8)


TURNS = [
    lambda image, turns=turns, mirrored=mirrored: np.rot90(
        np.fliplr(image) if mirrored else image, turns
    )
    for turns in range(4)
    for mirrored in (False, True)
]


@pytest.mark.parametrize("change", [*TURNS, save_as_jpeg, shrink, brighten])
def test_changed_copies_look_like_their_originals(change):
    originals = draw_textures()
    numbers = number(np.concatenate([originals, np.stack([*map(change, originals)])]))
    assert len(set(numbers)) == len(originals)
    np.testing.assert_array_equal(numbers[:40], numbers[40:])


@pytest.mark.parametrize(
    "images",
    [
        draw_textures(),
        draw_cells(),
        draw_cells(noise=0),
        draw_cells(centred=False),
        draw_spots(),
        draw_dark_noise(),
    ],
    ids=["textures", "cells", "cells without noise", "cells anywhere", "spots", "dark noise"],
)
def test_different_images_do_not_look_alike(images):
    numbers = number(images)
    assert len(set(numbers)) == len(images)


@pytest.mark.parametrize("draw", [draw_spots, draw_cells])
def test_mirrored_copies_of_sparse_images_are_found(draw):
    originals = draw()
    numbers = number(np.concatenate([originals, originals[:20, :, ::-1]]))
    np.testing.assert_array_equal(numbers[:20], numbers[150:])
    assert len(set(numbers)) == 150


def test_images_without_structure_look_alike_only_as_exact_copies():
    flat = np.full((6, SIZE, SIZE, 3), 7, np.uint8)
    flat[3:] = 200
    numbers = number_look_alikes(flat, ["a", "a", "a", "b", "c", "d"])
    assert len(set(numbers[:3])) == 1
    assert len(set(numbers)) == 4


def test_many_exact_copies_are_compared_once():
    images = np.concatenate([np.zeros((5000, 8, 8, 3), np.uint8), draw_textures(2)[:, :8, :8]])
    numbers = number_look_alikes(images, [*["well"] * 5000, "x", "y"])
    assert len(set(numbers[:5000])) == 1
    assert len(set(numbers)) == 3


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_deep_images_are_compared_by_structure(dtype):
    originals = draw_textures().astype(np.float32)
    changed = np.concatenate([originals, originals[:, ::-1] * 0.8 + 3])
    changed = (changed * 100).astype(dtype)
    if dtype == np.float32:
        changed[0, 0, 0] = np.nan
    numbers = number(changed)
    np.testing.assert_array_equal(numbers[1:40], numbers[41:])
    assert len(set(numbers)) <= 41


@pytest.fixture
def turned_folder(tmp_path):
    """Two classes of 20 tiles, each in four turns, saved as JPEG."""
    for label, tiles in (("a", draw_textures(20)), ("b", draw_textures(20, seed=1))):
        (tmp_path / "set" / label).mkdir(parents=True)
        for position, tile in enumerate(tiles):
            for turns in range(4):
                name = f"{'nesw'[turns]}{position}.jpg"
                Image.fromarray(np.rot90(tile, turns)).save(tmp_path / "set" / label / name)
    return tmp_path / "set"


def test_turned_copies_across_subsets_are_counted(turned_folder):
    config = DatasetConfig(data=str(turned_folder), image_size=SIZE)
    split = load_dataset(config, SplitConfig(split="stratified")).split
    assert split.duplicate_count == 0
    assert split.look_alike_count > 30


def test_turned_copies_can_be_groups(turned_folder):
    config = DatasetConfig(data=str(turned_folder), image_size=SIZE, group_pattern="copies")
    dataset = load_dataset(config, SplitConfig(split="grouped"))
    assert dataset.images.groups is not None
    assert len(set(dataset.images.groups)) == 40
    assert dataset.split.leaks_groups is False
    assert dataset.split.look_alike_count == 0
    assert len(dataset.split.test) == pytest.approx(0.16 * 160, abs=6)
