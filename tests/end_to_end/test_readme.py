"""Each command of a README runs here, has valid flags, or needs what `ELSEWHERE` names."""

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

import bioimg
from bioimg.cli.compare import _split_arguments
from bioimg.cli.grid_flags import parse_experiment_flags
from bioimg.cli.main import main
from bioimg.experiment_files import load_experiment_file, packaged_experiments_folder
from bioimg.results.result_store import read_results
from support import PROJECT
from support.image_folders import write_ham10000, write_noise_image

READMES = [
    path for folder in ("bioimg", "experiments") for path in (PROJECT / folder).rglob("*.md")
]
PAGES = ["README.md", ".github/CONTRIBUTING.md"]
PAGES += sorted(str(path.relative_to(PROJECT)) for path in READMES)
ELSEWHERE = {
    "ray": "a cluster; tests/nightly/test_hosts.py runs these",
    "python3": "a new environment; CI runs this",
    "source": "the environment",
    "pip": "a new environment",
    ".venv/bin/pip": "a new environment",
    "chmod": "Ray's token",
    "ruff": "the linters; CI runs them",
    "pyright": "the linters; CI runs them",
    "pytest": "these tests",
    ".venv/bin/python": "these tests",
    "sbatch": "Slurm",
}
# what the page names and isn't here: weights from the internet, a minute of training
HERE = {
    "--model resnet50": "--model resnext_tiny",
    "IMAGENET1K_V1 IMAGENET1K_V2": "TEXTURES_V1 TEXTURES_V2",
    "--image-size 150 --epochs 20": "--image-size 16 --epochs 1 --batch-size 8 --local",
}


def commands(page: str) -> Iterator[str]:
    """Yield the commands of a page, one for each part of an `&&` list."""
    text = (PROJECT / page).read_text(encoding="utf-8")
    for block in re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL):
        for line in block.splitlines():
            for command in line.partition("  #")[0].split("&&"):
                if command.strip() and "=" not in command.split()[0]:
                    yield command.strip()


def is_bioimg(command: str) -> bool:
    return shlex.split(command)[0].removeprefix(".venv/bin/") == "bioimg"


@pytest.fixture
def my_tiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make folders with images of a user, beside which the commands of a page then run."""
    for set_number, folder in enumerate(("my-tiles", "their-tiles", "new-tiles")):
        for label in "ab":
            for number in range(9):
                seed = 100_000 * set_number + 100 * ord(label) + number
                write_noise_image(tmp_path / folder / label / f"{number}.png", seed, size=(20, 20))
    monkeypatch.chdir(tmp_path)


def run_bioimg(command: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", shlex.split(command))
    return main()


@pytest.mark.parametrize("page", PAGES)
def test_each_command_of_a_page_is_known(page: str):
    for command in commands(page):
        program = shlex.split(command)[0]
        assert is_bioimg(command) or program in ELSEWHERE, command


@pytest.mark.parametrize("page", PAGES)
def test_each_comparison_of_a_page_has_valid_flags(page: str, my_tiles: None):
    folder = packaged_experiments_folder()
    for command in commands(page):
        words = shlex.split(command)
        if is_bioimg(command) and words[1] == "compare" and "--help" not in words:
            Path("DIR").mkdir(exist_ok=True)
            name, flags = _split_arguments(folder, words[2:])
            experiment, _ = load_experiment_file(folder, name or "demo")
            parse_experiment_flags(experiment, flags, program="bioimg", description="")


def test_commands_for_own_images_run_word_by_word(my_tiles: None, monkeypatch: pytest.MonkeyPatch):
    own = [command for command in commands("README.md") if "my-tiles" in command]
    assert [shlex.split(command)[1] for command in own] == [
        *("data", "compare", "report"),
        *("evaluate", "predict", "export"),
    ]
    for command in own:
        if " compare " in command:
            assert all(text in command for text in HERE), "the page no longer says this"
        for text, replacement in HERE.items():
            command = command.replace(text, replacement)
        assert run_bioimg(command, monkeypatch) == 0, command
    assert Path("results/my-tiles/report/report.html").is_file()


def test_ham10000_runs_word_by_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_ham10000(tmp_path)
    monkeypatch.chdir(tmp_path)
    (command,) = [text for text in commands("experiments/README.md") if "HAM10000" in text]
    size = "--model resnet50 --image-size 150"
    assert size in command, "the page no longer says this"
    quick = "--model resnext_tiny --weights TEXTURES_V2 --image-size 16 --epochs 1 --local"
    command = command.replace(size, f"{quick} --freeze features --batch-size 16")
    assert run_bioimg(command, monkeypatch) == 0
    results = read_results("results/HAM10000_metadata")
    lesions = pd.read_csv("HAM10000_metadata.csv")["lesion_id"].nunique()
    assert results.manifest["data"]["groups"] == results.images["group"].nunique() == lesions
    for trial in results.trials.to_dict("records"):
        assert (trial["status"], trial["split_leaks_groups"]) == ("completed", False)
        assert trial["train_images"] + trial["val_images"] + trial["test_images"] == 104


def test_python_of_the_readme_runs_word_by_word(my_tiles: None):
    text = (PROJECT / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert "import bioimg\n" in code
    for text, replacement in {
        'model="resnet50"': 'model="resnext_tiny"',
        'weights="IMAGENET1K_V2"': 'weights="TEXTURES_V2"',
        "image_size=150": "image_size=16, epochs=1, batch_size=8, local=True, report=False",
        "new-images": "my-tiles",
    }.items():
        assert text in code, "the page no longer says this"
        code = code.replace(text, replacement)
    names: dict[str, object] = {}
    compiled = compile(code, "README.md", "exec")
    exec(compiled, names)
    results = names["results"]
    assert isinstance(results, bioimg.api.ComparisonResults)
    assert len(results.table) == 2
