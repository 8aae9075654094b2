"""Which images train, validate and test."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from bioimg.config import MIN_TEST_GROUPS, SplitConfig, TrialConfig
from bioimg.data import TEST, TRAIN, VAL, Dataset, image_warnings, split_images, split_warnings
from bioimg.data.image_groups import count_effective_groups
from bioimg.errors import UserError
from bioimg.experiment import Experiment
from bioimg.report.translation import translate
from support.image_sets import labelled_images


def warnings_of(images, method):
    split = split_images(images, SplitConfig(split=method))
    config = SplitConfig(split=method)
    return [*split_warnings(Dataset(images=images, split=split), config), *image_warnings(images)]


def per_class(images, indices):
    return np.bincount(images.labels[indices], minlength=len(images.classes)).tolist()


def test_every_image_is_in_one_subset():
    split = split_images(labelled_images(np.arange(100) % 3), SplitConfig())
    assert sorted(np.concatenate([split.train, split.val, split.test])) == list(range(100))
    assert split.leaks_groups is None


def test_stratified_split_holds_68_16_16_percent_per_class():
    images = labelled_images(np.repeat(range(6), 625))
    split = split_images(images, SplitConfig())
    assert per_class(images, split.train) == [425] * 6
    assert per_class(images, split.val) == per_class(images, split.test) == [100] * 6


@pytest.mark.ray
def test_split_is_the_same_in_every_process():
    images = labelled_images(np.arange(60) % 2)
    here = split_images(images, SplitConfig()).test.tolist()
    code = (
        "import numpy, types;"
        "from bioimg.config import SplitConfig;"
        "from bioimg.data.splitting import assign_subsets;"
        "labels = numpy.arange(60) % 2;"
        "images = types.SimpleNamespace(labels=labels, classes=('a', 'b'), subsets=None);"
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


def test_smallest_allowed_class_is_in_every_subset():
    images = labelled_images([0] * 200 + [1] * 7)
    split = split_images(images, SplitConfig())
    assert all(per_class(images, subset)[1] >= 1 for subset in (split.train, split.val, split.test))
    with pytest.raises(
        UserError, match=r"at least 7 images of each class; there are too few of: b \(6\)"
    ):
        split_images(labelled_images([0] * 200 + [1] * 6), SplitConfig())


def test_stratified_split_reports_leaked_groups():
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


def test_grouped_split_keeps_groups_together_and_balanced():
    rng = np.random.default_rng(0)
    groups = tuple(str(g) for g in rng.integers(0, 30, 900))
    images = labelled_images(rng.integers(0, 3, 900), groups)
    split = split_images(images, SplitConfig(split="grouped"))
    names = [{groups[i] for i in subset} for subset in (split.train, split.val, split.test)]
    assert sum(map(len, names)) == len(set(groups))
    assert split.leaks_groups is False
    for subset, share in ((split.train, 0.68), (split.val, 0.16), (split.test, 0.16)):
        np.testing.assert_allclose(
            np.array(per_class(images, subset)) / np.bincount(images.labels), share, atol=0.06
        )


def test_grouped_split_finds_the_only_possible_assignment():
    groups = ("x", "y", "z", "u", "v") * 2
    images = labelled_images([0] * 5 + [1, 1, 1, 0, 0], groups)
    split = split_images(images, SplitConfig(split="grouped"))
    assert all(
        min(per_class(images, subset)) >= 1 for subset in (split.train, split.val, split.test)
    )


@pytest.mark.parametrize(
    ("images", "text"),
    [
        (labelled_images([0, 1] * 9), "no groups are known. Use --group-pattern"),
        (
            labelled_images([0, 1] * 9, ("x", "y") * 9),
            r"needs at least three groups; there are only these: x, y; the largest, x, has 9 "
            r"images, from 0.png to 8.png\.",
        ),
        (
            labelled_images([0] * 9 + [1] * 9, ("x", "y", "z") * 3 + ("x",) * 9),
            r"Groups with images of each class: a \(3\), b \(1\)",
        ),
    ],
)
def test_unsplittable_groups_are_refused(images, text):
    with pytest.raises(UserError, match=text):
        split_images(images, SplitConfig(split="grouped"))


def test_folder_split_follows_the_folders():
    subsets = np.array([TRAIN, VAL, TEST, TRAIN], np.int8)
    split = split_images(
        labelled_images([0, 1, 0, 1], subsets=subsets), SplitConfig(split="folder")
    )
    assert (split.train.tolist(), split.val.tolist(), split.test.tolist()) == ([0, 3], [1], [2])


@pytest.mark.parametrize(
    ("labels", "subsets", "text"),
    [
        ([0, 1], None, "`data` has no subsets train, val and test"),
        ([0, 1, 1], [TRAIN, TRAIN, VAL], "`data` has no images in: test"),
        ([0, 1, 1], [TRAIN, VAL, TEST], "classes have no image in train: b"),
    ],
)
def test_incomplete_subset_folders_are_refused(labels, subsets, text):
    subsets = None if subsets is None else np.array(subsets, np.int8)
    with pytest.raises(UserError, match=text):
        split_images(labelled_images(labels, subsets=subsets), SplitConfig(split="folder"))


FOLDS = [SplitConfig(folds=5, fold=fold) for fold in range(5)]


def test_each_fold_tests_and_validates_once():
    images = labelled_images(np.arange(100) % 4)
    splits = [split_images(images, trial) for trial in FOLDS]
    assert sorted(np.concatenate([split.test for split in splits])) == list(range(100))
    assert sorted(np.concatenate([split.val for split in splits])) == list(range(100))
    for split in splits:
        assert sorted(np.concatenate([split.train, split.val, split.test])) == list(range(100))
        assert per_class(images, split.test) == [5] * 4


def test_grouped_folds_keep_groups_apart():
    rng = np.random.default_rng(1)
    groups = tuple(str(g) for g in rng.integers(0, 10, 300))
    images = labelled_images(rng.integers(0, 3, 300), groups)
    splits = [split_images(images, dataclasses.replace(trial, split="grouped")) for trial in FOLDS]
    assert sorted(np.concatenate([split.test for split in splits])) == list(range(300))
    assert all(
        min(per_class(images, subset)) > 0
        for split in splits
        for subset in (split.train, split.val, split.test)
    )
    assert not any(split.leaks_groups for split in splits)


def test_folds_without_every_class_are_refused():
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
        ({"folds": 5, "split": "folder"}, "`folds` is 5, but must be 0 with `split` 'folder'"),
    ],
)
def test_invalid_folds_are_refused(fields, text):
    with pytest.raises(UserError, match=text):
        TrialConfig(**fields)


def test_experiment_over_folds_has_every_trial_per_fold():
    trials = (
        Experiment(name="x", base=TrialConfig(), axes={"batch_size": (8, 16)})
        .with_fold_axis(5)
        .trials()
    )
    assert [(t.batch_size, t.folds, t.fold) for t in trials] == [
        (size, 5, fold) for size in (8, 16) for fold in range(5)
    ]
    assert len({trial.key for trial in trials}) == 10


def test_copies_across_subsets_are_counted():
    clean = labelled_images([0, 1] * 30)
    split = split_images(clean, SplitConfig())
    assert split.duplicate_count == 0
    digests = list(clean.digests)
    digests[split.test[0]] = digests[split.train[0]]  # one test image has a copy in train
    digests[split.val[0]] = digests[split.val[1]]  # within one subset: no leak
    leaky = dataclasses.replace(clean, digests=tuple(digests))
    assert split_images(leaky, SplitConfig()).duplicate_count == 1
    assert any(
        "1 of the 20 validation and test images has an exact copy" in text
        for text in warnings_of(leaky, "stratified")
    )


def test_warnings_name_leaks_and_skipped_images():
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
def test_few_test_groups_give_the_warning_of_the_report(groups, tested):
    images = labelled_images(
        [0, 1] * 300, groups=tuple(f"slide {image // 2 % groups}" for image in range(600))
    )
    values = {"groups": tested, "effective": f"{tested}.0", "fewest": MIN_TEST_GROUPS}
    sentence = translate("warning.few_groups", "en", **values)
    advice = " To test all 24 groups in turn: --split grouped --folds 5."
    expected = [sentence + advice] if tested else []
    assert [f"WARNING: {text}" for text in warnings_of(images, "grouped")] == expected


def test_effective_groups_count_what_groups_weigh():
    def count(*sizes: int) -> float:
        slides = np.repeat(np.arange(len(sizes)), sizes)
        return count_effective_groups(map(str, slides))

    assert count(*[30] * 10) == pytest.approx(10)
    assert count(200, 10, 10, 10, 10) < 2.5
    assert count(600) == 1


def test_split_fingerprint_depends_on_assignment():
    images = labelled_images([0, 1] * 30)
    prints = {split_images(images, trial).fingerprint for trial in (SplitConfig(), *FOLDS)}
    assert len(prints) == 6
