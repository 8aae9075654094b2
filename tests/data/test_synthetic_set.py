"""The synthetic set that comes with the package: `--data phantom`."""

import dataclasses
import zipfile

import numpy as np
import pytest
from make_synthetic_tissue import draw_tiles, encode_png
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from bioimg.config import DatasetConfig, SplitConfig
from bioimg.data import ImageSet, load_dataset, split_warnings
from bioimg.data.public_datasets import SYNTHETIC_ZIP

CONFIG = DatasetConfig(data="phantom", image_size=64)


@pytest.fixture(scope="module")
def images() -> ImageSet:
    return load_dataset(CONFIG).images


def test_set_holds_six_hundred_native_synthetic_tiles(images: ImageSet):
    assert images.pixels.shape == (600, 64, 64, 3)
    assert images.pixels.dtype == np.uint8
    assert images.name == "phantom"
    assert images.synthetic
    assert all(name.endswith("-like") for name in images.classes)


def test_program_draws_the_shipped_tiles_again(images: ImageSet):
    tiles = draw_tiles()
    assert tuple(tiles) == images.paths
    np.testing.assert_array_equal(np.stack(list(tiles.values())), images.pixels)
    with zipfile.ZipFile(SYNTHETIC_ZIP) as archive:
        assert tuple(archive.namelist()) == images.paths
        first = images.paths[0]
        assert archive.read(first)[:8] == encode_png(tiles[first])[:8]


def test_another_seed_draws_other_tiles_of_the_same_names():
    first, second = draw_tiles(seed=0), draw_tiles(seed=1)
    assert first.keys() == second.keys()
    assert not any(np.array_equal(first[path], second[path]) for path in first)


def test_each_slide_has_two_tiles_of_every_class(images: ImageSet):
    assert images.groups is not None
    slides, number = np.unique(images.groups, return_inverse=True)
    assert list(slides) == [f"slide-{n:02}" for n in range(1, 51)]
    assert (np.histogram2d(number, images.labels, bins=(50, 6))[0] == 2).all()


def test_path_names_class_slide_and_number(images: ImageSet):
    assert images.paths[0] == "debris-like/slide-01_001.png"
    assert images.paths[-1] == "tumour-like/slide-50_002.png"
    assert len(set(images.paths)) == len(set(images.digests)) == 600
    assert images.groups is not None
    for path, label, group in zip(images.paths, images.labels, images.groups, strict=True):
        assert path.startswith(f"{images.classes[label]}/{group}_")


def test_another_size_is_the_same_set_resized(images: ImageSet):
    small = load_dataset(dataclasses.replace(CONFIG, image_size=16)).images
    assert small.pixels.shape == (600, 16, 16, 3)
    assert small.fingerprint == images.fingerprint
    assert np.abs(small.pixels.mean((1, 2)) - images.pixels.mean((1, 2))).max() < 6


def test_slides_are_kept_together_by_a_grouped_split():
    dataset = load_dataset(CONFIG, SplitConfig(split="grouped"))
    assert dataset.split.leaks_groups is False
    assert load_dataset(CONFIG).split.leaks_groups is True


def test_grouped_split_gives_no_warning():
    dataset = load_dataset(CONFIG, SplitConfig(split="grouped"))
    assert list(split_warnings(dataset, SplitConfig(split="grouped"))) == []


def test_tiles_of_one_slide_share_their_stain(images: ImageSet):
    colours = images.pixels.mean((1, 2))
    _, slide = np.unique(images.groups, return_inverse=True)
    within = np.mean([colours[slide == number].var(axis=0) for number in range(50)])
    assert within < 0.8 * colours.var(axis=0).mean()


def test_colour_alone_predicts_some_classes(images: ImageSet):
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    colours = images.pixels.mean((1, 2))
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    accuracy = cross_val_score(model, colours, images.labels, cv=folds).mean()
    guess = 1 / 6
    assert 1.5 * guess < accuracy < 0.6
