"""Sets as people have them, from the command to the row: each keeps its meaning or is refused."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from bioimg.results.result_store import read_results
from support.experiments import GRID_PROGRAM, QUICK_FLAGS, run_grid_program
from support.image_folders import write_class_folders, write_noise_image


def run(data, out, *flags):
    quick = [*QUICK_FLAGS, "--batch-size", "8", "--model", "resnext_tiny"]
    return run_grid_program("--data", data, *quick, *flags, "--out", out)


@pytest.mark.nightly
@pytest.mark.parametrize("place", ["results", "a/results"])
def test_results_inside_the_images_are_no_class_in_the_next_run(tmp_path, place):
    data = write_class_folders(tmp_path / "set", a=10, b=10)
    assert run(data, data / place) == 0
    assert run(data, data / place, "--seed", "0", "1") == 0
    trials = read_results(data / place).trials
    assert trials["status"].tolist() == ["completed"] * 2
    assert trials["data_fingerprint"].nunique() == 1


def test_folder_of_the_images_takes_no_results(tmp_path, capsys):
    data = write_class_folders(tmp_path / "set", a=10, b=10)
    assert run(data, data) == 2
    assert "must be a new or empty folder or one with results" in capsys.readouterr().err
    assert sorted(path.name for path in data.iterdir()) == ["a", "b"]


@pytest.mark.nightly
@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "cp1252"])
def test_names_beyond_the_encoding_of_the_output_are_replaced(tmp_path, encoding):
    data = tmp_path / "肿瘤集"
    for number in range(20):
        folder = data / ("肿瘤", "Stromagewebe_ä")[number % 2]
        write_noise_image(folder / f"{number}.png", seed=number)
    flags = [*QUICK_FLAGS, "--batch-size", "8", "--model", "resnext_tiny"]
    command = [GRID_PROGRAM, "--data", data, *flags, "--out", tmp_path / "out"]
    ended = subprocess.run(
        [sys.executable, *map(str, command)],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": encoding},
    )
    output = ended.stdout.decode(encoding)
    assert ended.returncode == 0, ended.stderr.decode(encoding)
    assert "???: 20 images in 2 classes" in output


def write_smooth(path, seed, turns=0):
    noise = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    image = Image.fromarray(noise).resize((48, 48), Image.Resampling.BICUBIC)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.rotate(90 * turns).save(path)


@pytest.mark.nightly
@pytest.mark.parametrize("change", ["turned", "recompressed"])
def test_copies_across_the_split_are_told_and_can_be_kept_together(tmp_path, change, capsys):
    data = tmp_path / "set"
    for number in range(40):
        folder = data / "ab"[number % 2]
        write_smooth(folder / f"{number}x.png", seed=number)
        if change == "turned":
            write_smooth(folder / f"{number}y.png", seed=number, turns=1)
        else:
            write_smooth(folder / f"{number}y.jpg", seed=number)
    assert run(data, tmp_path / "mixed") == 0
    assert "validation and test images look like one in another subset" in capsys.readouterr().out
    (row,) = read_results(tmp_path / "mixed").trials.to_dict("records")
    assert row["look_alike_images_across_splits"] > 5
    assert "turned or changed" in (tmp_path / "mixed" / "report" / "report.html").read_text()
    together = ("--split", "grouped", "--group-pattern", "copies")
    assert run(data, tmp_path / "together", *together) == 0
    (row,) = read_results(tmp_path / "together").trials.to_dict("records")
    assert row["look_alike_images_across_splits"] == 0


def test_left_out_files_and_likely_groups_are_in_the_row_and_on_the_page(tmp_path, capsys):
    data = tmp_path / "set"
    for number in range(40):
        name = f"slide{number % 8}_{number}.png"
        write_noise_image(data / "ab"[number % 2] / name, seed=number)
    for name in ("1.heic", "2", "3.czi"):
        shutil.copy(data / "a" / "slide0_0.png", data / "a" / name)
    (data / "notes.txt").write_text("text")
    assert run(data, tmp_path / "out") == 0
    output = capsys.readouterr().out
    assert "warning: 3 files were left out that may be images" in output
    assert "warning: names suggest 8 groups" in output
    (row,) = read_results(tmp_path / "out").trials.to_dict("records")
    assert (row["ignored_files"], row["likely_group_pattern"]) == (3, r"slide(\d+)")
    page = " ".join((tmp_path / "out" / "report" / "report.html").read_text().split())
    assert "left out, for want of a known suffix or a class: 3." in page
    assert r"slide(\d+)" in page
