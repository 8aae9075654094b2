"""The real tiles: ten slides, six classes."""

from pathlib import Path

import numpy as np
import pytest

from bioimg.config import TrialConfig
from bioimg.data import load_image_set, load_images_per_trial, split_images
from bioimg.data.audit.summary import audit_images
from bioimg.experiment import Experiment

SET = next(
    (
        up / "shared/data/kather2016-subset"
        for up in Path(__file__).resolve().parents
        if (up / "shared/data").is_dir()
    ),
    None,
)
pytestmark = pytest.mark.skipif(
    SET is None or not SET.is_dir(),
    reason="the tiles aren't here: ../shared/data/kather2016-subset",
)
SLIDE = r"HE-(\d+)"


@pytest.fixture(scope="module")
def trial():
    return TrialConfig(data=str(SET), image_size=32)


def test_the_tiles_are_six_classes_of_seventy(trial):
    images = load_image_set(trial)
    assert np.bincount(images.labels).tolist() == [70] * 6
    assert images.pixels.shape == (420, 32, 32, 3)


def test_ten_slides_are_found_with_the_pattern_and_guessed_without(trial):
    plain, _ = audit_images(trial)
    assert [(guess.pattern, guess.group_count) for guess in plain.guessed_patterns] == [(SLIDE, 10)]
    grouped, _ = audit_images(TrialConfig(data=str(SET), image_size=32, group_pattern=SLIDE))
    assert sorted(grouped.groups) == [f"{slide:02}" for slide in range(1, 11)]
    assert grouped.splits["stratified"].leaks_groups is True
    assert grouped.splits["grouped"].leaks_groups is False
    assert (plain.duplicates, plain.near_duplicates) == ([], [])


def test_no_slide_is_in_two_parts_of_any_grouped_fold():
    base = TrialConfig(data=str(SET), image_size=32, split="grouped", group_pattern=SLIDE)
    trials = [base, *Experiment(name="x", base=base).with_fold_axis(5).trials()]
    images = load_images_per_trial(trials)
    assert len({id(one) for one in images.values()}) == 1
    for trial in trials:
        cut = split_images(images[trial], trial)
        slides = [
            {images[trial].groups[i] for i in part} for part in (cut.train, cut.val, cut.test)
        ]
        assert sum(map(len, slides)) == 10
        assert all(
            len(set(images[trial].labels[part])) == 6 for part in (cut.train, cut.val, cut.test)
        )
