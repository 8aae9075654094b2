import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from bioimg.data.image_set import ImageSet
from bioimg.data.synthetic_tissue import draw_phantom


@pytest.fixture(scope="module")
def drawn() -> ImageSet:
    return draw_phantom()


def test_it_is_six_hundred_native_tiles_and_says_that_they_are_synthetic(drawn: ImageSet):
    assert drawn.pixels.shape == (600, 64, 64, 3)
    assert drawn.pixels.dtype == np.uint8
    assert drawn.synthetic
    assert all(name.endswith("-like") for name in drawn.classes)


def test_the_same_seed_draws_the_same_bits(drawn: ImageSet):
    again = draw_phantom()
    assert np.array_equal(drawn.pixels, again.pixels)
    assert (drawn.paths, drawn.digests, drawn.fingerprint) == (
        again.paths,
        again.digests,
        again.fingerprint,
    )


def test_another_seed_draws_another_set_of_the_same_shape(drawn: ImageSet):
    other = draw_phantom(seed=1)
    assert set(other.digests).isdisjoint(drawn.digests)
    assert other.paths == drawn.paths


def test_each_of_ten_slides_has_ten_tiles_of_every_class(drawn: ImageSet):
    assert drawn.groups is not None
    slides, number = np.unique(drawn.groups, return_inverse=True)
    assert list(slides) == [f"slide-{n:02}" for n in range(1, 11)]
    assert (np.histogram2d(number, drawn.labels, bins=(10, 6))[0] == 10).all()


def test_a_path_says_class_slide_and_number_and_none_is_there_twice(drawn: ImageSet):
    assert drawn.paths[0] == "debris-like/slide-01_001.png"
    assert drawn.paths[-1] == "tumour-like/slide-10_010.png"
    assert len(set(drawn.paths)) == len(set(drawn.digests)) == 600
    assert drawn.groups is not None
    for path, label, group in zip(drawn.paths, drawn.labels, drawn.groups, strict=True):
        assert path.startswith(f"{drawn.classes[label]}/{group}_")


def test_classes_are_in_alphabetical_order(drawn: ImageSet):
    assert list(drawn.classes) == sorted(drawn.classes)


def test_another_size_is_the_same_set_resized(drawn: ImageSet):
    small = draw_phantom(image_size=16)
    assert small.pixels.shape == (600, 16, 16, 3)
    assert small.fingerprint == drawn.fingerprint
    assert np.abs(small.pixels.mean((1, 2)) - drawn.pixels.mean((1, 2))).max() < 6


def test_tiles_of_one_slide_are_alike_in_stain(drawn: ImageSet):
    assert drawn.groups is not None
    colours = drawn.pixels.mean((1, 2))
    _, slide = np.unique(drawn.groups, return_inverse=True)
    within = np.mean([colours[slide == s].var(axis=0) for s in range(10)])
    assert within < 0.8 * colours.var(axis=0).mean()


@pytest.mark.parametrize("seed", [0, 1])
def test_colour_alone_tells_more_than_a_guess_and_much_less_than_all(seed: int):
    images = draw_phantom(seed=seed)
    head = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    colour = images.pixels.mean((1, 2))
    accuracy = cross_val_score(
        head, colour, images.labels, cv=StratifiedKFold(5, shuffle=True, random_state=0)
    ).mean()
    assert 1.5 / 6 < accuracy < 0.6
