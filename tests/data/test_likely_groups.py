"""What a run tells about groups that names suggest."""

import pytest

from bioimg.config import DatasetConfig, SplitConfig
from bioimg.data import load_dataset, split_warnings
from support.image_folders import write_class_folders, write_noise_image


def warn(folder, split="stratified", **fields):
    config = DatasetConfig(data=str(folder), image_size=16, **fields)
    split_config = SplitConfig(split=split)
    return " ".join(split_warnings(load_dataset(config, split_config), split_config))


@pytest.mark.parametrize("word", ["slide", "patient-", "well_"])
def test_groups_that_names_suggest_are_told_unless_they_are_known(tmp_path, word):
    for number in range(40):
        name = f"{word}{number % 5}_img{number}.png"
        write_noise_image(tmp_path / "ab"[number % 2] / name, seed=number)
    text = warn(tmp_path)
    assert "names suggest 5 groups" in text
    assert f"--split grouped --group-pattern '{word}(\\d+)'" in text
    assert "names suggest" not in warn(tmp_path, "grouped", group_pattern=rf"{word}(\d+)")


def test_running_numbers_suggest_no_groups(tmp_path):
    assert "names suggest" not in warn(write_class_folders(tmp_path / "set", a=10, b=10))
