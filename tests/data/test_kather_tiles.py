"""The real tiles: ten slides, six classes."""

from pathlib import Path

import numpy as np
import pytest

from bioimg.config import DatasetConfig, TrialConfig
from bioimg.data import list_datasets, load_dataset, load_datasets
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
def config():
    return DatasetConfig(data=str(SET), image_size=32)


def test_tiles_are_six_classes_of_seventy(config):
    images = load_dataset(config).images
    assert np.bincount(images.labels).tolist() == [70] * 6
    assert images.pixels.shape == (420, 32, 32, 3)


def test_ten_slides_are_found_and_guessed(config):
    plain, _ = audit_images(config)
    assert [(guess.pattern, guess.group_count) for guess in plain.guessed_patterns] == [(SLIDE, 10)]
    grouped, _ = audit_images(DatasetConfig(data=str(SET), image_size=32, group_pattern=SLIDE))
    assert sorted(grouped.groups) == [f"{slide:02}" for slide in range(1, 11)]
    assert grouped.splits["stratified"].leaks_groups is True
    assert grouped.splits["grouped"].leaks_groups is False
    assert (plain.duplicates, plain.look_alikes) == ([], [])


def test_grouped_folds_keep_slides_apart():
    base = TrialConfig(data=str(SET), image_size=32, split="grouped", group_pattern=SLIDE)
    trials = [base, *Experiment(name="x", base=base).with_fold_axis(5).trials()]
    datasets = load_datasets(list_datasets(trials))
    assert len({id(dataset.images) for dataset in datasets.values()}) == 1
    for trial in trials:
        images, split = datasets[trial].images, datasets[trial].split
        slides = [
            {images.groups[i] for i in subset} for subset in (split.train, split.val, split.test)
        ]
        assert sum(map(len, slides)) == 10
        assert all(
            len(set(images.labels[subset])) == 6 for subset in (split.train, split.val, split.test)
        )
