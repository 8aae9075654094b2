"""Parts that the data give: used unless another split is asked for, and told."""

import io

import numpy as np
import pytest
from rich.console import Console

from bioimg import runner
from bioimg.config import DatasetConfig, SplitConfig, TrialConfig
from bioimg.data import describe_images, list_datasets, load_dataset, split_warnings
from bioimg.data.image_set import TEST, TRAIN, VAL
from bioimg.errors import UserError
from bioimg.experiment import Experiment
from support.image_folders import medmnist_arrays, write_class_folders, write_noise_image


def write_parts(folder, **counts):
    for part, count in counts.items():
        write_class_folders(folder / part, a=count, b=count)
    return folder


def write_table(folder, parts):
    lines = ["path,label,split"]
    for number, part in enumerate(parts):
        write_noise_image(folder / f"{number}.png", seed=number)
        lines.append(f"{number}.png,{'ab'[number % 2]},{part}")
    (folder / "set.csv").write_text("\n".join(lines))
    return folder / "set.csv"


def write_npz(folder):
    np.savez(folder / "toy.npz", **medmnist_arrays(count=10))
    return folder / "toy.npz"


def list_trial(data, **fields):
    trial = TrialConfig(data=str(data), image_size=16, **fields)
    return list_datasets([trial])[trial]


@pytest.mark.parametrize(
    "write",
    [
        lambda folder: write_parts(folder, train=10, val=5, test=5),
        lambda folder: write_parts(folder, training=10, dev=5, holdout=5),
        lambda folder: write_table(folder, ["train"] * 20 + ["valid"] * 10 + ["Test"] * 10),
        write_npz,
    ],
)
def test_given_parts_are_used_by_default_and_told(tmp_path, write):
    listed = list_trial(write(tmp_path))
    assert listed.split_config.split == "folder"
    np.testing.assert_array_equal(listed.subsets, listed.index.subsets)
    assert any("Its own parts are used: train (" in text for text in describe_images(listed))


def test_images_without_parts_are_split_by_class(tmp_path):
    listed = list_trial(write_class_folders(tmp_path / "set", a=10, b=10))
    assert listed.split_config.split == "stratified"
    texts = describe_images(listed)
    assert texts[0] == "set: 20 images in 2 classes: a (10), b (10)."
    assert not any("parts" in text for text in texts)


@pytest.mark.parametrize(
    ("write", "text"),
    [
        (
            lambda folder: write_parts(folder, train=10, val=5, test=5),
            "40 images in 2 classes: a (20)",
        ),
        (
            lambda folder: write_table(folder, ["train"] * 19),
            "19 images in 2 classes: a (10), b (9).",
        ),
        (write_npz, "toy: 30 images in 2 classes: 0 (15), 1 (15)."),
        (lambda folder: "phantom", "600 images in 6 classes"),
    ],
)
def test_classes_are_counted_before_a_run_for_every_source(tmp_path, write, text):
    assert text in describe_images(list_trial(write(tmp_path)))[0]


def test_parts_that_all_say_the_same_are_no_parts(tmp_path):
    assert list_trial(write_table(tmp_path, ["train"] * 20)).split_config.split == "stratified"


def test_parts_that_are_mixed_on_demand_are_warned_of(tmp_path):
    folder = write_parts(tmp_path, train=10, val=5, test=5)
    for split, is_warned in (("stratified", True), ("folder", False)):
        dataset = load_dataset(DatasetConfig(data=str(folder)), SplitConfig(split=split))
        texts = " ".join(split_warnings(dataset, SplitConfig(split=split)))
        assert ("parts that `data` gives are mixed" in texts) == is_warned


def test_given_parts_are_not_cross_validated_unless_asked(tmp_path):
    folder = write_parts(tmp_path, train=10, val=5, test=5)
    with pytest.raises(UserError, match="`folds` is 3, but `data` gives parts"):
        list_trial(folder, folds=3)
    assert list_trial(folder, folds=3, split="stratified").split_config.split == "stratified"


@pytest.mark.parametrize("missing", ["test", "train"])
def test_missing_part_is_refused_by_name(tmp_path, missing):
    parts = {name: 8 for name in ("train", "val", "test") if name != missing}
    with pytest.raises(UserError, match=f"no images in: {missing}"):
        list_trial(write_parts(tmp_path, **parts))


def test_validation_is_drawn_from_train_and_test_stays(tmp_path):
    listed = list_trial(write_parts(tmp_path, train=20, test=8))
    given = listed.index.subsets
    np.testing.assert_array_equal(listed.subsets == TEST, given == TEST)
    assert set(listed.subsets[given == TRAIN]) == {TRAIN, VAL}
    assert np.bincount(listed.index.labels[listed.subsets == VAL]).tolist() == [4, 4]
    assert "8 of the 40 training images are taken for that, of each class at random" in " ".join(
        describe_images(listed)
    )


def test_validation_is_drawn_in_whole_groups_if_groups_are_known(tmp_path):
    for part, patients in (("train", 10), ("test", 3)):
        for patient in range(patients):
            for number in range(4):
                name = f"{part}{patient}x_{number}.png"
                write_noise_image(tmp_path / part / "ab"[number % 2] / name, seed=number)
    listed = list_trial(tmp_path, group_pattern=r"(\w+)_")
    groups = np.array(listed.index.groups)
    assert np.count_nonzero(listed.subsets == VAL) == 8
    assert not set(groups[listed.subsets == VAL]) & set(groups[listed.subsets == TRAIN])
    assert "in whole groups" in " ".join(describe_images(listed))


@pytest.mark.parametrize(
    ("pattern", "text"),
    [(None, "fewer than two of b"), (r"(\w)_", "can't be drawn from train")],
)
def test_train_that_is_too_small_for_validation_is_refused(tmp_path, pattern, text):
    write_class_folders(tmp_path / "test", a=3, b=3)
    for number in range(4):
        write_noise_image(tmp_path / "train" / "a" / f"x_{number}.png")
    write_noise_image(tmp_path / "train" / "b" / "y_1.png")
    for number in range(3):
        for name in "ab":
            path = tmp_path / "test" / name / f"{number}.png"
            path.rename(path.with_name(f"z_{number}.png"))
    with pytest.raises(UserError, match=text):
        list_trial(tmp_path, group_pattern=pattern)


def test_experiment_names_the_split_that_is_used(tmp_path):
    folder = write_parts(tmp_path, train=10, val=5, test=5)
    base = TrialConfig(data=str(folder), image_size=16)
    experiment = Experiment(name="x", base=base, axes={"epochs": (1, 2)})
    resolved, listed = runner.list_images(experiment)
    assert resolved.base.split == "folder"
    assert list(listed) == resolved.trials()
    axes = {"split": ("auto", "stratified")}
    resolved, listed = runner.list_images(Experiment(name="x", base=base, axes=axes))
    assert resolved.axes["split"] == ("folder", "stratified")
    assert [dataset.split_config.split for dataset in listed.values()] == ["folder", "stratified"]


def test_left_out_files_that_may_be_images_are_told(tmp_path):
    write_class_folders(tmp_path / "set", a=10, b=10)
    for name in ("x.heic", "y.dcm", "notes.txt"):
        (tmp_path / "set" / "a" / name).write_text("x")
    output = io.StringIO()
    trial = TrialConfig(data=str(tmp_path / "set"), image_size=16)
    runner.print_listed_images(list_datasets([trial]), Console(file=output, width=400))
    assert "2 files were left out that may be images" in output.getvalue()
    assert "a/x.heic, a/y.dcm" in output.getvalue()


def test_key_of_a_trial_is_that_of_the_split_it_used_to_have():
    assert TrialConfig().key == TrialConfig(split="stratified").key
    assert TrialConfig().key != TrialConfig(split="folder").key
    assert TrialConfig(split="grouped").key != TrialConfig().key
