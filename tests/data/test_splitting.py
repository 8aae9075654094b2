"""Which images train, validate and test."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from bioimg.config import MIN_TEST_GROUPS, SplitConfig, TrialConfig
from bioimg.data import TEST, TRAIN, VAL, Dataset, split_images, split_warnings
from bioimg.errors import UserError
from bioimg.experiment import Experiment
from bioimg.report.translation import translate
from support.image_sets import labelled_images


def warnings_of(images, method):
    split = split_images(images, SplitConfig(split=method))
    return split_warnings(Dataset(images=images, split=split), method)


def per_class(images, indices):
    return np.bincount(images.labels[indices], minlength=len(images.classes)).tolist()


def test_every_image_is_in_one_part():
    cut = split_images(labelled_images(np.arange(100) % 3), SplitConfig())
    assert sorted(np.concatenate([cut.train, cut.val, cut.test])) == list(range(100))
    assert cut.leaks_groups is None


def test_a_stratified_split_holds_68_16_16_percent_of_each_class():
    images = labelled_images(np.repeat(range(6), 625))
    cut = split_images(images, SplitConfig())
    assert per_class(images, cut.train) == [425] * 6
    assert per_class(images, cut.val) == per_class(images, cut.test) == [100] * 6


@pytest.mark.ray
def test_the_split_is_the_same_for_every_seed_and_process():
    images = labelled_images(np.arange(60) % 2)
    here = split_images(images, SplitConfig()).test.tolist()
    code = (
        "import numpy, types;"
        "from bioimg.config import SplitConfig;"
        "from bioimg.data.splitting import assign_subsets;"
        "labels = numpy.arange(60) % 2;"
        "images = types.SimpleNamespace(labels=labels, classes=('a', 'b'));"
        "print(numpy.flatnonzero(assign_subsets(images, SplitConfig()) == 2).tolist())"
    )
    out = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": "3"},
    )
    assert out.stdout.strip() == str(here)


def test_the_smallest_class_that_can_be_split_is_in_every_part():
    images = labelled_images([0] * 200 + [1] * 7)
    cut = split_images(images, SplitConfig())
    assert all(per_class(images, part)[1] >= 1 for part in (cut.train, cut.val, cut.test))
    with pytest.raises(
        UserError, match=r"at least 7 images of each class; there are too few of: b \(6\)"
    ):
        split_images(labelled_images([0] * 200 + [1] * 6), SplitConfig())


def test_a_stratified_split_says_that_it_leaks_groups():
    groups = tuple(str(number % 10) for number in range(100))
    assert (
        split_images(labelled_images(np.arange(100) % 2, groups), SplitConfig()).leaks_groups
        is True
    )
    assert (
        split_images(
            labelled_images(np.arange(100) % 2, tuple(map(str, range(100)))), SplitConfig()
        ).leaks_groups
        is False
    )


def test_a_grouped_split_keeps_each_group_in_one_part_and_classes_near_balance():
    rng = np.random.default_rng(0)
    groups = tuple(str(g) for g in rng.integers(0, 30, 900))
    images = labelled_images(rng.integers(0, 3, 900), groups)
    cut = split_images(images, SplitConfig(split="grouped"))
    names = [{groups[i] for i in part} for part in (cut.train, cut.val, cut.test)]
    assert sum(map(len, names)) == len(set(groups))
    assert cut.leaks_groups is False
    for part, share in ((cut.train, 0.68), (cut.val, 0.16), (cut.test, 0.16)):
        np.testing.assert_allclose(
            np.array(per_class(images, part)) / np.bincount(images.labels), share, atol=0.06
        )


def test_a_grouped_split_finds_the_only_way_that_holds_every_class():
    groups = ("x", "y", "z", "u", "v") * 2
    images = labelled_images([0] * 5 + [1, 1, 1, 0, 0], groups)
    cut = split_images(images, SplitConfig(split="grouped"))
    assert all(min(per_class(images, part)) >= 1 for part in (cut.train, cut.val, cut.test))


@pytest.mark.parametrize(
    ("images", "text"),
    [
        (labelled_images([0, 1] * 9), "no groups are known. Use --group-pattern"),
        (
            labelled_images([0, 1] * 9, ("x", "y") * 9),
            r"needs at least three groups; there are only these: x, y; the largest, x, has 9 images, from 0.png to 8.png\.",
        ),
        (
            labelled_images([0] * 9 + [1] * 9, ("x", "y", "z") * 3 + ("x",) * 9),
            r"Groups with images of each class: a \(3\), b \(1\)",
        ),
    ],
)
def test_groups_that_can_not_be_split_are_refused(images, text):
    with pytest.raises(UserError, match=text):
        split_images(images, SplitConfig(split="grouped"))


def test_a_folder_split_is_what_the_folders_say():
    parts = np.array([TRAIN, VAL, TEST, TRAIN], np.int8)
    cut = split_images(labelled_images([0, 1, 0, 1], subsets=parts), SplitConfig(split="folder"))
    assert (cut.train.tolist(), cut.val.tolist(), cut.test.tolist()) == ([0, 3], [1], [2])


@pytest.mark.parametrize(
    ("labels", "parts", "text"),
    [
        ([0, 1], None, "`data` has no subsets train, val and test"),
        ([0, 1, 1], [TRAIN, TRAIN, TEST], "`data` has no images in: val"),
        ([0, 1, 1], [TRAIN, VAL, TEST], "classes have no image in train: b"),
    ],
)
def test_folders_that_are_no_split_are_refused(labels, parts, text):
    parts = None if parts is None else np.array(parts, np.int8)
    with pytest.raises(UserError, match=text):
        split_images(labelled_images(labels, subsets=parts), SplitConfig(split="folder"))


FOLDS = [SplitConfig(folds=5, fold=fold) for fold in range(5)]


def test_each_fold_tests_once_and_validates_once():
    images = labelled_images(np.arange(100) % 4)
    cuts = [split_images(images, trial) for trial in FOLDS]
    assert sorted(np.concatenate([cut.test for cut in cuts])) == list(range(100))
    assert sorted(np.concatenate([cut.val for cut in cuts])) == list(range(100))
    for cut in cuts:
        assert sorted(np.concatenate([cut.train, cut.val, cut.test])) == list(range(100))
        assert per_class(images, cut.test) == [5] * 4


def test_grouped_folds_keep_groups_apart_and_every_class_everywhere():
    rng = np.random.default_rng(1)
    groups = tuple(str(g) for g in rng.integers(0, 10, 300))
    images = labelled_images(rng.integers(0, 3, 300), groups)
    cuts = [split_images(images, dataclasses.replace(trial, split="grouped")) for trial in FOLDS]
    assert sorted(np.concatenate([cut.test for cut in cuts])) == list(range(300))
    assert all(
        min(per_class(images, part)) > 0 for cut in cuts for part in (cut.train, cut.val, cut.test)
    )
    assert not any(cut.leaks_groups for cut in cuts)


def test_folds_that_can_not_hold_every_class_are_refused():
    with pytest.raises(
        UserError, match=r"needs at least 5 images of each class; there are too few of: b \(4\)"
    ):
        split_images(labelled_images([0] * 20 + [1] * 4), FOLDS[0])
    groups = ("x", "y", "z", "u") * 5
    with pytest.raises(
        UserError, match=r"test of every fold.*each class: a \(4\), b \(4\).*use fewer --folds"
    ):
        split_images(
            labelled_images([0] * 10 + [1] * 10, groups),
            dataclasses.replace(FOLDS[0], split="grouped"),
        )


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"folds": 2}, "the value of `folds` is 2, but must be 0 .none. or at least 3"),
        (
            {"folds": 5, "fold": 5},
            "the value of `fold` is 5, but must be less than `folds`, which is 5",
        ),
        ({"fold": 1}, "the value of `fold` is 1, but must be less than `folds`, which is 0"),
        ({"folds": 5, "split": "folder"}, "`folds` must be 0 with `split` 'folder'"),
    ],
)
def test_folds_that_make_no_sense_are_refused(fields, text):
    with pytest.raises(UserError, match=text):
        TrialConfig(**fields)


def test_an_experiment_over_folds_asks_every_cell_once_for_each_fold():
    trials = (
        Experiment(name="x", base=TrialConfig(), axes={"batch_size": (8, 16)})
        .with_fold_axis(5)
        .trials()
    )
    assert [(t.batch_size, t.folds, t.fold) for t in trials] == [
        (size, 5, fold) for size in (8, 16) for fold in range(5)
    ]
    assert len({trial.key for trial in trials}) == 10


def test_copies_of_an_image_in_two_parts_are_counted():
    clean = labelled_images([0, 1] * 30)
    cut = split_images(clean, SplitConfig())
    assert cut.duplicate_count == 0
    digests = list(clean.digests)
    digests[cut.test[0]] = digests[cut.train[0]]  # one test image has a copy in train
    digests[cut.val[0]] = digests[cut.val[1]]  # within one part: no leak
    leaky = dataclasses.replace(clean, digests=tuple(digests))
    assert split_images(leaky, SplitConfig()).duplicate_count == 1
    assert any(
        "1 of the 20 validation and test images has an exact copy" in text
        for text in warnings_of(leaky, "stratified")
    )


def test_warnings_say_what_makes_results_too_good():
    grouped = labelled_images(
        [0, 1] * 300,
        groups=tuple(f"slide {image // 2 % 50}" for image in range(600)),
        unreadable_skipped=3,
    )
    assert [text[:40] for text in warnings_of(grouped, "stratified")] == [
        "images of one group are in more than one",
        "3 unreadable images were left out.",
    ]
    assert (
        warnings_of(dataclasses.replace(grouped, unreadable_skipped=1), "stratified")[1]
        == "1 unreadable image was left out."
    )
    assert warnings_of(dataclasses.replace(grouped, unreadable_skipped=0), "grouped") == []


@pytest.mark.parametrize(("groups", "tested"), [(24, 4), (50, None)])
def test_few_groups_among_the_test_images_are_warned_of_in_the_words_of_the_report(groups, tested):
    images = labelled_images(
        [0, 1] * 300, groups=tuple(f"slide {image // 2 % groups}" for image in range(600))
    )
    said = [f"WARNING: {told}" for told in warnings_of(images, "grouped")]
    assert said == (
        [translate("warning.few_groups", "en", groups=tested, fewest=MIN_TEST_GROUPS)]
        if tested
        else []
    )


def test_the_fingerprint_of_a_split_knows_which_image_went_where():
    images = labelled_images([0, 1] * 30)
    prints = {split_images(images, trial).fingerprint for trial in (SplitConfig(), *FOLDS)}
    assert len(prints) == 6
