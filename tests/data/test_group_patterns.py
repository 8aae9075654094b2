"""Which groups file names suggest, and where a run tells that its split ignores them."""

import numpy as np
import pytest

from bioimg.config import DatasetConfig
from bioimg.data import list_images
from bioimg.data.group_patterns import find_likely_groups, guess_group_patterns
from bioimg.data.image_groups import add_groups
from bioimg.data.image_index import ImageIndex
from support.image_folders import write_noise_image


def index_of(names):
    """Return an index of images with these names, every second one in class a or b."""
    paths = [f"{'ab'[number % 2]}/{name}.png" for number, name in enumerate(names)]
    labels = np.arange(len(paths)) % 2
    return ImageIndex(name="x", files=(), paths=tuple(paths), labels=labels, classes=("a", "b"))


def patterns_of(names):
    return [guess.pattern for guess in guess_group_patterns(index_of(names))]


@pytest.mark.parametrize(
    ("names", "pattern", "groups"),
    [
        ([f"{n}AF_CRC-Prim-HE-0{n % 4}_{n}.tif_Row_{n}_Col_1" for n in range(20)], r"HE-(\d+)", 4),
        ([f"patient {n % 5} image {n}" for n in range(20)], r"patient (\d+)", 5),
        ([f"{'abcde'[n % 5]}_{n}" for n in range(20)], r"([^/_]+)_[^/]*$", 5),
        ([f"case-{'abcde'[n % 5]}-{n}" for n in range(20)], r"([^/-]+-[^/-]+)-[^/]*$", 5),
        ([f"p{n % 6}/{n}" for n in range(24)], "parent", 6),
    ],
)
def test_group_patterns_are_guessed_from_names(tmp_path, names, pattern, groups):
    for number, name in enumerate(names):
        write_noise_image(tmp_path / "ab"[number % 2] / f"{name}.png")
    found = guess_group_patterns(list_images(DatasetConfig(data=str(tmp_path))))
    assert (found[0].pattern, found[0].group_count) == (pattern, groups)
    assert (
        len(set(list_images(DatasetConfig(data=str(tmp_path), group_pattern=pattern)).groups))
        == groups
    )


def test_patients_of_tcga_come_before_slides():
    names = [
        f"TCGA-{'AB'[n % 2]}6-{3500 + n % 20}-01Z-00-DX{1 + n // 20 % 3}_{n}" for n in range(120)
    ]
    guesses = guess_group_patterns(index_of(names))
    assert (guesses[0].pattern, guesses[0].group_count) == (r"(TCGA-\w{2}-\w{4})", 20)
    assert r"DX(\d+)" not in [guess.pattern for guess in guesses]


def test_numbers_that_restart_for_each_patient_are_no_guess():
    names = [f"case{'ABCD'[n % 4]}_roi{n // 4 % 3}_{n}" for n in range(48)]
    assert patterns_of(names)[0] == r"([^/_]+)_[^/]*$"
    assert r"roi(\d+)" not in patterns_of(names)


def test_numbers_that_identify_slides_are_a_guess_whatever_precedes_them():
    names = [f"{n}AF_Prim-HE-0{n % 5}_{n}" for n in range(40)]
    assert patterns_of(names)[0] == r"HE-(\d+)"


@pytest.mark.parametrize("word", ["rotated_", "aug", "Angle-"])
def test_turns_of_an_image_make_no_groups(word):
    assert patterns_of([f"{word}{90 * (n % 4)}_{n // 4}" for n in range(48)]) == []


def test_running_numbers_make_no_groups(tmp_path):
    for number in range(20):
        write_noise_image(tmp_path / "ab"[number % 2] / f"img_{number}_row_{number % 3}.png")
    assert guess_group_patterns(list_images(DatasetConfig(data=str(tmp_path)))) == []


def test_slides_spelled_in_three_ways_are_one_group():
    names = [f"{('slide', 'slide0', 'Slide')[n // 4 % 3]}{n % 4}_{n}" for n in range(48)]
    index = add_groups(r"[Ss]lide(\d+)", index_of(names))
    assert index.groups is not None
    assert len(set(index.groups)) == 4
    assert "groups that differ only in case, blanks or zeros are one: 0 = 00" in " ".join(
        index.assumptions
    )


@pytest.mark.parametrize(
    ("pattern", "likely"),
    [
        (r"DX(\d+)", r"(TCGA-\w{2}-\w{4})"),
        (r"(TCGA-\w{2}-\w{4})", r"(TCGA-\w{2}-\w{4})"),
        (None, r"(TCGA-\w{2}-\w{4})"),
    ],
)
def test_patients_are_likely_groups_also_beside_other_groups(pattern, likely):
    names = [f"TCGA-A6-{3500 + n % 20}-01Z-00-DX{1 + n // 20 % 3}_{n}" for n in range(120)]
    groups = find_likely_groups(add_groups(pattern, index_of(names)))
    assert groups is not None
    assert groups.pattern == likely
    assert len(set(groups.names)) == 20


def test_known_groups_that_mix_nothing_up_have_no_likely_ones():
    names = [f"P{n % 6}_slide{n // 6 % 2}_{n}" for n in range(48)]
    assert find_likely_groups(add_groups(r"P(\d+)", index_of(names))) is None
