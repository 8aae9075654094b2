"""Which files hold the same image, and which of these contradict each other."""

import shutil

import numpy as np
import pytest

from bioimg.config import DatasetConfig
from bioimg.data import image_warnings, load_dataset
from bioimg.data.copies import find_copies, join_copies
from bioimg.errors import UserError
from support.image_folders import medmnist_arrays, write_image_folder, write_noise_image
from support.image_sets import labelled_images


@pytest.mark.parametrize("count", [1, 3])
def test_image_in_two_classes_is_refused_with_its_paths(tmp_path, count):
    write_image_folder(tmp_path, count=10)
    for path in sorted((tmp_path / "a").iterdir())[:count]:
        shutil.copy(path, tmp_path / "b" / f"same_{path.name}")
    message = (
        rf"^{count} images? ha\w+ several labels in .*: a/p0_0\.png = b/same_p0_0\.png.*Decide on "
        "one class for each"
    )
    with pytest.raises(UserError, match=message):
        load_dataset(DatasetConfig(data=str(tmp_path), image_size=8))


def test_renamed_copy_in_its_own_class_is_no_contradiction(tmp_path):
    write_image_folder(tmp_path, count=10)
    shutil.copy(tmp_path / "a" / "p0_0.png", tmp_path / "a" / "again.png")
    images = load_dataset(DatasetConfig(data=str(tmp_path), image_size=8)).images
    assert find_copies(images) == [["a/again.png", "a/p0_0.png"]]


def test_copies_in_a_table_with_two_labels_are_refused(tmp_path):
    lines = ["path,label"]
    for number in range(20):
        write_noise_image(tmp_path / f"{number}.png", seed=min(number, 18))
        lines.append(f"{number}.png,{'xy'[number % 2]}")
    (tmp_path / "set.csv").write_text("\n".join(lines))
    with pytest.raises(UserError, match=r"1 image has several labels .*: 18\.png = 19\.png\. "):
        load_dataset(DatasetConfig(data=str(tmp_path / "set.csv"), image_size=8))


def test_copies_with_two_labels_in_an_npz_are_told(tmp_path):
    arrays = medmnist_arrays()
    arrays["train_images"][:2] = 7
    np.savez(tmp_path / "toy.npz", **arrays)
    dataset = load_dataset(DatasetConfig(data=str(tmp_path / "toy.npz"), image_size=9))
    assert "1 image has several labels" in " ".join(image_warnings(dataset.images))


def test_many_copies_are_listed_by_the_first_few():
    images = labelled_images([0, 1] * 6, digests=("same",) * 12)
    (copies,) = find_copies(images)
    assert len(copies) == 12
    assert join_copies(copies) == "0.png = 1.png = 2.png = ... (12 in all)"
