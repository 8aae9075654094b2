"""Names of classes and groups that mean the same, wherever they come from."""

import unicodedata

import pytest

from bioimg.data.distinct_names import find_spellings
from bioimg.errors import UserError
from support.image_folders import find_images, write_noise_image


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Tumor", "tumor"),
        ("Strömung", unicodedata.normalize("NFD", "Strömung")),
        ("Lympho cyte", "Lympho  cyte"),
        ("slide_7", "Slide 07"),
        ("P\u200b1", "p1"),
        ("Straße", "STRASSE"),
    ],
)
def test_spellings_of_one_name_are_found(first, second):
    assert find_spellings([first, "other", second, first]) == [[first, second]]


@pytest.mark.parametrize("names", [("0.05", "0.5"), ("10", "100"), ("CD4+", "CD4-"), ("0", "1")])
def test_different_names_stay_different(names):
    assert find_spellings(names) == []


@pytest.mark.parametrize(
    ("column", "names", "kind"),
    [
        ("label", ("fat", "Fat", "bone", "b"), "labels"),
        ("group", ("p1", "p01", "x", "y"), "groups"),
    ],
)
def test_table_with_two_spellings_is_refused(tmp_path, column, names, kind):
    lines = ["path,label,group"]
    for number, name in enumerate(names):
        write_noise_image(tmp_path / f"{number}.png")
        label, group = (name, "g") if column == "label" else ("ab"[number % 2], name)
        lines.append(f"{number}.png,{label},{group}")
    (tmp_path / "x.csv").write_text("\n".join(lines))
    with pytest.raises(UserError, match=f"holds {kind} that differ only in"):
        find_images(tmp_path / "x.csv")


def test_groups_that_a_pattern_finds_in_two_spellings_are_one(tmp_path):
    for number, slide in enumerate(("slide1", "slide01", "Slide1", "slide2")):
        write_noise_image(tmp_path / "ab"[number % 2] / f"{slide}_t{number}.png")
    listing = find_images(tmp_path, group_pattern=r"((?i:slide)\d+)")
    assert len(set(listing.groups)) == 2
    assert "are one: " in listing.assumptions[-1]
