"""What folders mean, and when that is asked back."""

import itertools

import numpy as np
import pytest

from bioimg.data.folder_layout import parse_layout, part_of_name
from bioimg.data.image_set import TEST, TRAIN, VAL
from bioimg.errors import UserError
from support.image_folders import find_images, write_image_folder, write_noise_image


def write_images(folder, *paths):
    for number, path in enumerate(paths):
        write_noise_image(folder / path, seed=number)
    return folder


def write_levels(folder, *levels):
    """Write one image in each combination of the folders on these levels."""
    return write_images(
        folder, *("/".join((*names, "1.png")) for names in itertools.product(*levels))
    )


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("train", TRAIN),
        ("TrainingSet", TRAIN),
        ("train2017", TRAIN),
        ("valid", VAL),
        ("dev", VAL),
        ("eval_images", VAL),
        ("test-data", TEST),
        ("Testing", TEST),
        ("testis", None),
        ("trainer", None),
        ("contest", None),
        ("data", None),
        ("испытание", None),
    ],
)
def test_name_means_a_part_only_as_a_whole_word(name, part):
    assert part_of_name(name) == part


@pytest.mark.parametrize(
    "parts", [("train", "dev", "test"), ("Training", "Validation", "Testing"), ("train", "test")]
)
def test_topmost_folders_named_like_parts_are_parts(tmp_path, parts):
    listing = find_images(write_levels(tmp_path, parts, "ab"))
    assert listing.classes == ("a", "b")
    assert len(set(listing.subsets)) == len(parts)
    assert listing.assumptions == ("folders are read as train|val|test/CLASS/IMAGE",)


def test_parts_below_classes_are_parts(tmp_path):
    listing = find_images(write_levels(tmp_path, ("tumour", "stroma"), ("train", "val", "test")))
    assert listing.classes == ("stroma", "tumour")
    assert listing.paths[0].startswith("stroma/test/")
    assert listing.subsets.tolist() == [TEST, TRAIN, VAL] * 2


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (("train/a/1.png", "test/a/1.png", "unlabelled/1.png"), "test, train, beside unlabelled"),
        (("train/a/1.png", "dev/b/1.png", "extra/a/1.png"), "dev, train, beside extra"),
        (("train/a/1.png", "train/b/1.png", "test/1.png"), "no class folders in: test"),
        (("train/a/1.png", "train/b/1.png", "val/a/1.png", "valid/b/1.png"), "val, valid"),
        (("a/1.png", "b/1.png", "b/test/1.png"), "b/test"),
    ],
)
def test_part_where_none_is_expected_is_refused_with_its_name(tmp_path, paths, names):
    with pytest.raises(UserError, match=names):
        find_images(write_images(tmp_path, *paths))


@pytest.mark.parametrize(
    ("levels", "classes_below"),
    [
        ((("8863", "8864"), ("0", "1")), "patient/class"),
        ((("s1", "s2", "s3"), ("tumour", "stroma", "fat")), "patient/class"),
        ((("train", "test"), ("p1", "p2"), ("a", "b")), "part/patient/class"),
    ],
)
def test_same_folders_in_all_classes_are_asked_back(tmp_path, levels, classes_below):
    with pytest.raises(UserError, match=f"--layout {classes_below} if") as caught:
        find_images(write_levels(tmp_path, *levels))
    listing = find_images(tmp_path, layout=classes_below)
    assert listing.classes == tuple(sorted(levels[-1]))
    assert len(set(listing.groups)) == len(levels[-2])
    assert "--layout class" in str(caught.value) or "--layout part/class" in str(caught.value)


def test_layout_makes_labels_and_groups_from_the_path(tmp_path):
    folder = write_levels(tmp_path, ("site1", "site2"), ("a", "b"), ("p1", "p2"))
    listing = find_images(folder, layout="*/class/patient")
    assert listing.classes == ("a", "b")
    assert listing.groups == ("p1", "p2") * 4


def test_different_folders_below_classes_need_no_layout(tmp_path):
    write_images(tmp_path, "a/p1/1.png", "a/p2/1.png", "b/p3/1.png", "b/p4/1.png")
    assert find_images(tmp_path).classes == ("a", "b")


@pytest.mark.parametrize("layout", ["patient", "class/class", "a/b/class", "class/my-slide", ""])
def test_layout_without_one_class_level_is_refused(tmp_path, layout):
    with pytest.raises(UserError, match="the value of `layout` is"):
        find_images(write_image_folder(tmp_path), layout=layout)


def test_image_above_the_layouts_levels_is_ignored_and_listed(tmp_path):
    write_levels(tmp_path, ("p1", "p2"), ("a", "b"))
    write_noise_image(tmp_path / "p1" / "overview.png")
    listing = find_images(tmp_path, layout="patient/class")
    assert len(listing) == 4
    assert "p1/overview.png" in listing.possible_images


@pytest.mark.parametrize("place", ["results", "a/results", "results/demo"])
def test_results_among_the_images_are_no_class(tmp_path, place):
    write_image_folder(tmp_path, count=2)
    write_noise_image(tmp_path / place / "figures" / "curve.png")
    (tmp_path / place / "experiment.json").write_text("{}")
    listing = find_images(tmp_path)
    assert (listing.classes, len(listing)) == (("a", "b"), 4)


@pytest.mark.parametrize("suffix", [".jfif", ".jpe", ".JPG"])
def test_jpeg_is_read_whatever_its_suffix(tmp_path, suffix):
    write_image_folder(tmp_path, count=1)
    write_noise_image(tmp_path / "a" / "x.jpg")
    (tmp_path / "a" / "x.jpg").rename(tmp_path / "a" / f"x{suffix}")
    assert f"a/x{suffix}" in find_images(tmp_path).paths


def test_file_without_a_known_suffix_may_be_an_image(tmp_path):
    write_image_folder(tmp_path, count=1)
    for name in ("x.heic", "scan_01", "notes.txt"):
        (tmp_path / "a" / name).write_text("x")
    assert find_images(tmp_path).possible_images == ("a/scan_01", "a/x.heic")


LAYOUTS = (
    ("class",),
    ("part", "class"),
    ("class", "part"),
    ("patient", "class"),
    ("class", "patient"),
    ("part", "patient", "class"),
    ("part", "class", "patient"),
    ("patient", "part", "class"),
)
NAMES = {
    "class": ("tumour", "stroma", "0", "1", "testis", "developed"),
    "patient": ("p1", "p2", "8863", "slide 7", "training wheel", "x"),
}
PARTS = {"train": TRAIN, "TrainingSet": TRAIN, "test": TEST, "dev": VAL, "holdout_set": TEST}


def draw_images(rng, levels):
    """Return paths of images with the class of each, or None for litter that has no class."""
    names = {}
    for level in levels:
        if level == "part":
            names[level] = [rng.choice(list(PARTS)[:2]), rng.choice(list(PARTS)[2:])]
        else:
            names[level] = list(rng.permutation(NAMES[level])[: rng.integers(2, 5)])
    has_own_patients = rng.random() < 0.5 and levels == ("class", "patient")
    images = []
    for steps in itertools.product(*(names[level] for level in levels)):
        label = steps[levels.index("class")]
        if has_own_patients:
            steps = (steps[0], f"{steps[1]}-{steps[0]}")
        images += [((*map(str, steps), f"{number}.png"), str(label)) for number in range(2)]
    if rng.random() < 0.3 and levels[0] == "part":
        images.append((("unlabelled", "1.png"), None))
    if rng.random() < 0.3:
        images.append((("overview.png",), None))
    return images


LITTER = (
    *(".DS_Store", "._0.png", "Thumbs.db", "__MACOSX/0.png", "$RECYCLE.BIN/0.png", "notes.txt"),
    ".cache/0.png",
)
RESULTS = ("results/experiment.json", "results/figures/curve.png")


def write_drawn(folder, images, rng):
    """Write empty files for drawn images, and litter beside the classes and inside of folders."""
    for steps, _ in images:
        path = folder.joinpath(*steps)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    places = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
    place = places[rng.integers(len(places))]
    results = RESULTS if rng.random() < 0.3 else ()
    for litter in (*rng.permutation(LITTER)[:3], *results):
        (place / litter).parent.mkdir(parents=True, exist_ok=True)
        (place / litter).touch()


@pytest.mark.parametrize("levels", LAYOUTS)
def test_drawn_folder_is_understood_or_refused(tmp_path, levels):
    """What the console states is what the folders were drawn to mean, image by image."""
    understood = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        images = draw_images(rng, levels)
        if rng.random() < 0.3 and levels[0] == "class" and "part" not in levels:
            # one folder within a class that is called like a part
            images.append(((images[0][0][0], "test", "9.png"), None))
        folder = tmp_path / str(seed)
        write_drawn(folder, images, rng)
        try:
            listing = find_images(folder)
        except UserError:
            continue
        understood += 1
        label_by_path = {"/".join(steps): label for steps, label in images}
        assert set(listing.paths) == {path for path, label in label_by_path.items() if label}
        for row, path in enumerate(listing.paths):
            assert listing.classes[listing.labels[row]] == label_by_path[path], (levels, path)
        stated = listing.assumptions[0]
        assert ("train|val|test" in stated) == ("part" in levels) == (listing.subsets is not None)
        if "part" in levels:
            given = [PARTS[path.split("/")[levels.index("part")]] for path in listing.paths]
            assert listing.subsets.tolist() == given
    assert (understood > 0) == (levels in LAYOUTS[:3] or levels == ("class", "patient"))


@pytest.mark.parametrize("levels", LAYOUTS)
def test_drawn_folder_is_listed_as_the_console_states(tmp_path, levels):
    for seed in range(4):
        images = draw_images(np.random.default_rng(seed), levels)
        folder = tmp_path / str(seed)
        for steps, _ in images:
            folder.joinpath(*steps).parent.mkdir(parents=True, exist_ok=True)
            folder.joinpath(*steps).touch()
        # the user's own words for the levels are never asked back
        listing = find_images(folder, layout="/".join(levels))
        stated = str(parse_layout("/".join(levels)))
        assert listing.assumptions == (f"folders are read as {stated}",)
        label_by_path = {"/".join(steps): label for steps, label in images}
        for row, path in enumerate(listing.paths):
            steps = path.split("/")
            assert listing.classes[listing.labels[row]] == label_by_path[path]
            if "part" in levels:
                assert listing.subsets[row] == part_of_name(steps[levels.index("part")])
            if "patient" in levels:
                assert listing.groups[row] == steps[levels.index("patient")]
        assert set(listing.paths) == {path for path, label in label_by_path.items() if label}


def test_written_layout_reads_back():
    assert str(parse_layout(" Patient/class ")) == "PATIENT/CLASS/IMAGE"
