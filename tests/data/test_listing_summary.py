"""What a run tells about its images."""

import pytest

from bioimg.config import DatasetConfig, SplitConfig, TrialConfig
from bioimg.data import describe_images, list_datasets, load_dataset, split_warnings
from support.image_folders import write_class_folders, write_noise_image


def describe(data, **fields):
    trial = TrialConfig(data=str(data), image_size=16, **fields)
    return " ".join(describe_images(list_datasets([trial])[trial]))


@pytest.mark.parametrize("word", ["slide", "patient-", "well_"])
def test_groups_that_names_suggest_are_told_unless_they_are_known(tmp_path, word):
    for number in range(40):
        name = f"{word}{number % 5}_img{number}.png"
        write_noise_image(tmp_path / "ab"[number % 2] / name, seed=number)
    text = describe(tmp_path)
    assert "names suggest 5 groups" in text
    assert f"--split grouped --group-pattern '{word}(\\d+)'" in text
    assert "names suggest" not in describe(tmp_path, split="grouped", group_pattern=rf"{word}(\d+)")


def test_running_numbers_suggest_no_groups(tmp_path):
    assert "names suggest" not in describe(write_class_folders(tmp_path / "set", a=10, b=10))


def warn(folder):
    dataset = load_dataset(DatasetConfig(data=str(folder), image_size=16), SplitConfig())
    return " ".join(split_warnings(dataset, "stratified"))


def test_image_in_two_classes_is_told_as_a_contradiction(tmp_path):
    for number in range(20):
        write_noise_image(tmp_path / "ab"[number % 2] / f"{number}.png", seed=number)
    assert "several classes" not in warn(tmp_path)
    for number in (2, 4):
        write_noise_image(tmp_path / "b" / f"copy_{number}.png", seed=number)
    text = warn(tmp_path)
    assert "2 images are in several classes, " in text
    assert "copies: a/2.png = b/copy_2.png, a/4.png = b/copy_4.png. Remove" in text


def test_copies_within_a_class_are_no_contradiction(tmp_path):
    for number in range(20):
        write_noise_image(tmp_path / "ab"[number % 2] / f"{number}.png", seed=number % 2)
    assert "several classes" not in warn(tmp_path)
