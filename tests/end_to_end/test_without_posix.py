"""What runs in one process uses no module that only POSIX has, so that it can run on Windows."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from support.experiments import GRID_PROGRAM

POSIX_MODULES = ("fcntl", "resource")
WITHOUT_POSIX = f"""
import runpy, sys

# libraries that have a way of their own for each system
import filelock, psutil


class MissingModules:
    def find_spec(self, name, path=None, target=None):
        if name in {POSIX_MODULES!r}:
            raise ImportError(f"there is no module {{name}}")
        return None


for name in {POSIX_MODULES!r}:
    sys.modules.pop(name, None)
sys.meta_path.insert(0, MissingModules())
program, *sys.argv = sys.argv[1:2] + sys.argv[1:]
if program == "bioimg":
    from bioimg.cli.main import main

    sys.exit(main())
runpy.run_path(program, run_name="__main__")
"""
TINY_FLAGS = ["--model", "resnext_tiny", "--image-size", "32", "--epochs", "1", "--seed", "0"]
TINY_FLAGS += ["--weights", "none", "--freeze", "none", "features", "--batch-size", "64"]
TINY_FLAGS += ["--tune", "--learning-rate", "5e-4"]


def run_without_posix(folder: Path, *command: object) -> str:
    """Run a program in a folder without the modules of POSIX; return its output."""
    program = [sys.executable, "-c", WITHOUT_POSIX, *map(str, command)]
    process = subprocess.run(program, cwd=folder, capture_output=True, text=True)
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


@pytest.mark.ray  # the tier of tests that start processes
def test_local_experiment_runs_without_posix(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("BIOIMG_CACHE", str(tmp_path / "cache"))
    results = tmp_path / "results"
    run_without_posix(tmp_path, GRID_PROGRAM, "demo", "--local", *TINY_FLAGS, "--out", results)
    assert (results / "report" / "report.html").exists()
    run_without_posix(tmp_path, "bioimg", "report", results, "--out", tmp_path / "report")
    assert (tmp_path / "report" / "report.html").exists()
    assert "2 completed" in run_without_posix(tmp_path, "bioimg", "status", results)

    image = tmp_path / "images" / "new.png"
    image.parent.mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(image)
    table = tmp_path / "predictions.csv"
    run_without_posix(tmp_path, "bioimg", "predict", results, image.parent, "--out", table)
    assert "new.png" in table.read_text()


@pytest.mark.ray  # the tier of tests that start processes
def test_data_runs_without_posix(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("BIOIMG_CACHE", str(tmp_path / "cache"))
    generator = np.random.default_rng(0)
    for number in range(20):
        image = tmp_path / "images" / "ab"[number % 2] / f"{number}.png"
        image.parent.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 255, (20, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(image)
    assert "20" in run_without_posix(tmp_path, "bioimg", "data", tmp_path / "images")
    assert "images" in run_without_posix(tmp_path, "bioimg", "cache")
