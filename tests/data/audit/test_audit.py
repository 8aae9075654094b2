"""What `bioimg data` shows about a set of images."""

import io
import json
import re

import numpy as np
import pytest
import tyro
from PIL import Image
from rich.console import Console

from bioimg.cli.data import DataCommand
from bioimg.config import DatasetConfig
from bioimg.data.audit.contact_sheet import draw_contact_sheet
from bioimg.data.audit.summary import audit_images
from bioimg.errors import UserError
from bioimg.storage import disk_cache
from support.image_folders import (
    medmnist_arrays,
    write_image_folder,
    write_noise_image,
    write_tiff_folder,
)


def audited(data, **fields):
    return audit_images(DatasetConfig(data=str(data), image_size=32, **fields))[0]


def smooth(path, seed=0, size=64):
    """A blurred image, which looks the same after small changes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8))
    noise.resize((size, size), Image.Resampling.BICUBIC).save(path)
    return path


@pytest.fixture
def messy(tmp_path):
    """Two classes with a copy, a near copy, an unreadable file and a note."""
    folder = tmp_path / "messy"
    for label, name in enumerate("ab"):
        for number in range(10 + 5 * label):
            smooth(folder / name / f"slide{number % 4}_{number}.png", seed=100 * label + number)
    (folder / "a" / "copy_slide1_99.png").write_bytes((folder / "a" / "slide1_1.png").read_bytes())
    with Image.open(folder / "b" / "slide2_2.png") as image:
        image.save(folder / "b" / "slide2_50.jpg", quality=70)
    (folder / "b" / "slide3_77.png").write_text("text")
    (folder / "b" / "notes.txt").write_text("text")
    return folder


def test_audit_counts_images_sizes_and_formats(messy):
    found = audited(messy)
    assert (found.name, found.images, found.synthetic) == ("messy", 27, False)
    assert found.classes == {"a": 11, "b": 16}
    assert found.imbalance == pytest.approx(16 / 11)
    assert found.sizes == {"64 x 64": 27}
    assert found.stored == {"8-bit RGB": 27}
    assert found.formats == {".png": 26, ".jpg": 1}
    assert list(found.unreadable) == ["b/slide3_77.png"]
    assert found.ignored == ["b/notes.txt"]


def test_copies_and_look_alikes_are_named(messy):
    found = audited(messy)
    assert found.duplicates == [["a/copy_slide1_99.png", "a/slide1_1.png"]]
    assert found.look_alikes == [["b/slide2_2.png", "b/slide2_50.jpg"]]
    kept = {entry.name.split("/")[0]: entry.description for entry in disk_cache.list_entries()}
    assert kept["alike"] == "which of 27 images look alike"


def test_split_previews_show_leaks(messy):
    stratified = audited(messy, group_pattern=r"slide(\d)").splits["stratified"]
    assert sum(sum(part.values()) for part in stratified.images.values()) == 27
    assert stratified.leaks_groups is True
    assert stratified.duplicates in (0, 1)
    assert stratified.look_alikes in (0, 1)


def test_impossible_split_gives_the_reason(tmp_path):
    for part in ("train", "val"):
        write_image_folder(tmp_path / part, count=2)
    found = audited(tmp_path)
    assert "needs at least 7 images of each class" in found.splits["stratified"].error
    assert "`data` has no images in: test" in found.splits["folder"].error
    assert found.splits["folder"].images == {}


def test_audit_shows_depths_and_scaling(tmp_path):
    found = audited(write_tiff_folder(tmp_path))
    assert found.stored == {"16-bit grey": 20}
    assert all(100 <= low < high <= 4000 for low, high in found.scaling)
    assert re.search(
        r"black to white  \d+ to \d+ \(stored values\)\n",
        command(tmp_path, "--contact-sheet", "None"),
    )


def test_npz_file_is_audited(tmp_path):
    np.savez(tmp_path / "toy.npz", **medmnist_arrays())
    found = audited(tmp_path / "toy.npz")
    assert (found.sizes, found.formats) == ({"9 x 9": 60}, {".npz": 60})
    assert found.splits["folder"].images["train"] == {"0": 10, "1": 10}


def test_progress_covers_every_step(messy):
    steps = []
    audit_images(DatasetConfig(data=str(messy), image_size=32), lambda *step: steps.append(step))
    names = list(dict.fromkeys(name for name, _, _ in steps))
    assert names == ["reading images", "comparing images", "splitting images"]
    assert ("reading images", 28, 28) in steps
    assert ("comparing images", 26, 26) in steps


def test_contact_sheet_has_a_row_per_class(messy):
    _, images = audit_images(DatasetConfig(data=str(messy), image_size=32))
    sheet = np.asarray(draw_contact_sheet(images))
    assert sheet.shape[:2] == (2 * 128, 8 * 102 + 6)
    assert (sheet[60, 10] != 255).any()
    assert (sheet[190, 10 + 7 * 102] != 255).any()


def command(*args):
    parsed = tyro.cli(DataCommand, args=[str(arg) for arg in args])
    console = Console(file=io.StringIO(), width=120)
    assert parsed.run(console) == 0
    return console.file.getvalue()


def test_data_command_prints_audit(messy, tmp_path):
    text = command(messy, "--contact-sheet", tmp_path / "out" / "sheet.png")
    for expected in (
        "messy: 27 images in 2 classes",
        "8-bit RGB (27)",
        "1: b/slide3_77.png (cannot identify image file",
        r"--group-pattern 'slide(\d+)' (4 groups; the largest, 1, has 8 images, "
        "from a/copy_slide1_99.png to b/slide1_9.png)",
        "a/copy_slide1_99.png = a/slide1_1.png",
        "imbalance       1.45 to 1 (largest to smallest class)",
        "b/slide2_2.png = b/slide2_50.jpg",
        "stratified",
    ):
        assert expected in text
    with Image.open(tmp_path / "out" / "sheet.png") as sheet:
        assert sheet.size == (822, 256)


def test_data_command_prints_json(messy, capsys):
    assert (
        command(messy, "--json", "--contact-sheet", "None", "--group-pattern", r"slide(\d+)") == ""
    )
    content = json.loads(capsys.readouterr().out)
    assert content["groups"] == {"0": 7, "1": 8, "2": 7, "3": 5}
    assert content["splits"]["stratified"]["leaks_groups"] is True
    assert content["contact_sheet"] == ""


def test_unwritable_contact_sheet_is_an_error(messy, tmp_path):
    message = r"the value of `contact_sheet` is .*sheet.unknown', which can't be written: unknown"
    with pytest.raises(UserError, match=message):
        command(messy, "--contact-sheet", tmp_path / "sheet.unknown")


def test_empty_folder_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"No images .* found"):
        audited(tmp_path)


def test_many_copies_of_one_image_take_one_short_line(tmp_path):
    for number in range(60):
        write_noise_image(tmp_path / "empty" / f"{number:02}.png", seed=0)
    write_image_folder(tmp_path, count=10)
    lines = command(tmp_path, "--contact-sheet", "None").splitlines()
    (line,) = [line for line in lines if line.startswith("copies")]
    assert "a/p0_0.png = empty/00.png = empty/01.png = ... (61 in all)" in line
