"""Tables whose paths are names or ids of images that lie elsewhere."""

import pytest

from bioimg.errors import UserError
from support.image_folders import find_images, write_noise_image


def write_table(folder, values, name="metadata.csv", column="image_id"):
    rows = [f"{value},{'ab'[number % 2]}" for number, value in enumerate(values)]
    (folder / name).write_text("\n".join([f"{column},dx", *rows]) + "\n")
    return folder / name


COLUMNS = "path=image_id,label=dx"


def test_ids_are_found_in_several_folders_below_the_table(tmp_path):
    for number in range(4):
        write_noise_image(tmp_path / f"part_{number % 2 + 1}" / f"ISIC_{number:07}.jpg")
    table = write_table(tmp_path, [f"ISIC_{number:07}" for number in range(4)])
    listing = find_images(table, columns=COLUMNS)
    assert listing.paths[:2] == ("part_1/ISIC_0000000.jpg", "part_1/ISIC_0000002.jpg")
    assert [listing.classes[label] for label in listing.labels] == ["a", "a", "b", "b"]
    assert "4 of 4 images are found by their names" in listing.assumptions[0]


@pytest.mark.parametrize("value", ["x.png", "X", "deep/x", "deep/x.png", "./x.png"])
def test_image_is_found_by_the_end_of_its_path(tmp_path, value):
    for name in ("deep/x.png", "deep/y.z.png"):
        write_noise_image(tmp_path / "images" / name)
    table = write_table(tmp_path, [value, "y.z"])
    listing = find_images(table, columns=COLUMNS, images=str(tmp_path / "images"))
    assert listing.paths == ("deep/x.png", "deep/y.z.png")


def test_ambiguous_id_is_refused_with_both_names(tmp_path):
    for name in ("left/x.png", "right/x.tif", "left/y.png"):
        write_noise_image(tmp_path / name)
    table = write_table(tmp_path, ["x", "y"])
    with pytest.raises(UserError, match=r"x \(left/x.png or right/x.tif\)"):
        find_images(table, columns=COLUMNS)
    assert find_images(write_table(tmp_path, ["left/x", "y"]), columns=COLUMNS).paths[0] == (
        "left/x.png"
    )


def test_missing_image_is_refused_with_the_closest_file(tmp_path):
    write_noise_image(tmp_path / "IMG_0001.png")
    table = write_table(tmp_path, ["IMG_0001", "IMG_002"])
    with pytest.raises(UserError, match=r"IMG_002.* closest file to IMG_002 is IMG_0001\.png"):
        find_images(table, columns=COLUMNS)


def test_two_ids_of_one_image_are_refused(tmp_path):
    write_noise_image(tmp_path / "x.png")
    with pytest.raises(UserError, match=r"listed twice: x\.png"):
        find_images(write_table(tmp_path, ["x", "x.png"]), columns=COLUMNS)


def test_missing_image_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"`images` is .* must be an existing folder"):
        find_images(write_table(tmp_path, ["x"]), columns=COLUMNS, images=str(tmp_path / "no"))


@pytest.mark.parametrize("settings", [{"images": "x"}, {"columns": "path=p"}])
def test_setting_of_tables_is_refused_for_a_folder(tmp_path, settings):
    with pytest.raises(UserError, match="only used where `data` is a table"):
        find_images(tmp_path, **settings)


def test_set_is_named_after_its_table_or_folder(tmp_path):
    folder = tmp_path / "ham10000"
    for name in ("x.png", "y.png"):
        write_noise_image(folder / name)
    for name in ("labels.csv", "lesions.csv"):
        write_table(folder, ["x", "y"], name)
    assert find_images(folder / "labels.csv", columns=COLUMNS).name == "ham10000"
    assert find_images(folder / "lesions.csv", columns=COLUMNS).name == "lesions"
