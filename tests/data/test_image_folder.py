"""How a folder of images is read, and the errors when it isn't one."""

import pytest

from bioimg.config import DatasetConfig
from bioimg.data import load_dataset
from bioimg.errors import UserError
from support.image_folders import find_images, write_image_folder, write_noise_image


def test_each_folder_is_a_class_with_relative_paths(tmp_path):
    listing = find_images(write_image_folder(tmp_path / "set", count=2))
    assert listing.name == "set"
    assert listing.classes == ("a", "b")
    assert listing.paths == ("a/p0_0.png", "a/p1_1.png", "b/p0_0.png", "b/p1_1.png")
    assert listing.labels.tolist() == [0, 0, 1, 1]
    assert listing.subsets is None


def test_train_val_and_test_folders_are_subsets(tmp_path):
    for part in ("train", "val", "test"):
        write_image_folder(tmp_path / part, count=1)
    listing = find_images(tmp_path)
    assert listing.classes == ("a", "b")
    assert dict(zip(listing.paths, listing.subsets, strict=True)) == {
        f"{part}/{name}/p0_0.png": number
        for number, part in enumerate(("train", "val", "test"))
        for name in "ab"
    }


def test_images_in_subfolders_belong_to_their_class(tmp_path):
    write_image_folder(tmp_path, count=1)
    write_noise_image(tmp_path / "a" / "patient1" / "x.png")
    assert "a/patient1/x.png" in find_images(tmp_path).paths


def test_hidden_and_file_manager_files_are_skipped(tmp_path):
    write_image_folder(tmp_path, count=1)
    for name in (".hidden.png", "Thumbs.db", "notes.txt", "._p0.png"):
        (tmp_path / "a" / name).write_text("no image")
    write_noise_image(tmp_path / "__MACOSX" / "x.png")
    assert len(find_images(tmp_path)) == 2


@pytest.mark.parametrize("name", ["$RECYCLE.BIN", "lost+found", "@Recycle", "#snapshot"])
def test_folders_of_the_system_are_no_classes(tmp_path, name):
    write_image_folder(tmp_path, count=1)
    write_noise_image(tmp_path / name / "x.png")
    write_noise_image(tmp_path / "a" / name / "x.png")
    assert find_images(tmp_path).paths == ("a/p0_0.png", "b/p0_0.png")


@pytest.mark.parametrize("names", [("b ", "a"), ("b", " a "), ("\u00a0b", "a")])
def test_blanks_around_a_folder_are_no_part_of_the_name(tmp_path, names):
    for name in names:
        write_noise_image(tmp_path / name / "p1" / "x.png")
    listing = find_images(tmp_path)
    assert listing.classes == ("a", "b")
    assert listing.files[0].exists()
    assert listing.classes[listing.labels[0]] == listing.paths[0].split("/")[0].strip()


def test_link_to_parent_folder_is_not_followed(tmp_path):
    write_image_folder(tmp_path, count=1)
    (tmp_path / "a" / "loop").symlink_to(tmp_path, target_is_directory=True)
    assert len(find_images(tmp_path)) == 2


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda p: None, "there is no such folder"),
        (lambda p: p.write_text("x"), "a file must be one of: .csv, .tsv, .xlsx, .parquet, .npz"),
        (lambda p: p.mkdir(), r"No images .* found"),
        (
            lambda p: write_noise_image(p / "x.png"),
            "holds no class folders but must hold at least two classes",
        ),
        (
            lambda p: write_image_folder(p, classes=("a",)),
            "holds one class, 'a', but must hold at least two",
        ),
        (
            lambda p: write_image_folder(p, classes=("Tumor", "tumor", "b")),
            "differ only in case, .*: 'Tumor' = 'tumor'",
        ),
    ],
)
def test_folder_without_valid_classes_is_refused(tmp_path, build, text):
    build(tmp_path / "set")
    with pytest.raises(UserError, match=text) as caught:
        find_images(tmp_path / "set")
    assert "`data`" in str(caught.value)
    assert "set" in str(caught.value)


def test_group_pattern_finds_groups_in_paths(tmp_path):
    assert find_images(write_image_folder(tmp_path, count=2), group_pattern=r"p(\d)_").groups == (
        "0",
        "1",
        "0",
        "1",
    )


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("p(", "must be a regular expression"),
        (r"slide(\d+)", r"`group_pattern` is 'slide\(\\d\+\)', but"),
        ("p\\d", "with a \\(...\\) around the group's name"),
        ("p0_(.)", "isn't in: a/p1_1.png, b/p1_1.png"),
    ],
)
def test_invalid_group_pattern_is_refused(tmp_path, pattern, text):
    with pytest.raises(UserError, match=text):
        find_images(write_image_folder(tmp_path, count=2), group_pattern=pattern)


def test_too_small_class_is_named_before_decoding(tmp_path):
    write_image_folder(tmp_path)
    (tmp_path / "rare").mkdir()
    (tmp_path / "rare" / "x.png").write_text("not even an image")
    with pytest.raises(
        UserError, match=r"at least 7 images of each class; there are too few of: rare \(1\)"
    ):
        load_dataset(DatasetConfig(data=str(tmp_path)))
