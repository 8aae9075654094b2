"""The command `bioimg export`: what leaves the lab predicts what bioimg predicts."""

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import bioimg
from bioimg.cli import main
from bioimg.export import export_trial, qupath
from bioimg.prediction.predict_images import predict_images
from bioimg.results.result_store import read_results
from support.timm_folders import save_timm_folder

CLASSES = ("gland", "stroma", "tumour")
SETTINGS = {
    "weights": "DEFAULT",
    "freeze": ["features", "none"],
    "epochs": 1,
    "image_size": 32,
    "batch_size": 8,
    "learning_rate": 1e-3,
    "precision": "float32",
    "local": True,
    "early_stopping": False,
}
RUN_TORCHSCRIPT = """
import sys
sys.modules["bioimg"] = None
import numpy, torch
images = torch.from_numpy(numpy.load(sys.argv[2]))
with torch.inference_mode():
    numpy.save(sys.argv[3], torch.jit.load(sys.argv[1])(images).softmax(1).numpy())
"""


def draw_images(folder: Path, seed: int = 0) -> Path:
    """Draw square images of three classes, larger than the model takes."""
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for number in range(12):
            noise = np.random.default_rng([seed, label, number])
            pixels = noise.normal(noise.normal(90 + 40 * label, 40), 30, (48, 48, 3))
            image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
            image.save(folder / name / f"{number:02d}.png")
    return folder


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    """The results of a CNN, frozen and trained; the images are beside them."""
    folder = tmp_path_factory.mktemp("export")
    images = draw_images(folder / "images")
    bioimg.compare(images, model="resnext_tiny", out=folder / "grid", report=False, **SETTINGS)
    return folder / "grid"


@pytest.fixture(scope="module")
def transformer_results(tmp_path_factory) -> Path:
    """The same of a transformer whose weights must not be passed on once they are changed."""
    folder = tmp_path_factory.mktemp("export")
    images = draw_images(folder / "images")
    save_timm_folder(folder / "vit", "vit_tiny_patch16_224", 32, licence="cc-by-nc-nd-4.0")
    model = f"folder:{folder / 'vit'}"
    bioimg.compare(images, model=model, out=folder / "grid", report=False, **SETTINGS)
    return folder / "grid"


def run_export(monkeypatch, *args: object) -> int:
    monkeypatch.setattr(sys, "argv", ["bioimg", "export", *map(str, args)])
    return main.main()


def find_key(results: Path, freeze: str) -> str:
    trials = read_results(results).trials
    return trials.set_index("freeze").loc[freeze, "key"]


def test_export_has_a_card_the_classes_and_a_check(results, tmp_path, monkeypatch, capsys):
    key, out = find_key(results, "none"), tmp_path / "out"
    args = ("--to", "qupath", "--um-per-pixel", 0.5, "--key", key, "--out", out)
    assert run_export(monkeypatch, results, *args) == 0
    folder = out / f"images-{key}"
    assert f"Exported trial {key} as qupath to {folder}." in capsys.readouterr().out
    assert json.loads((folder / "classes.json").read_text()) == list(CLASSES)
    check = json.loads((folder / "check.json").read_text())
    assert len(check["images"]) == 16
    assert {image["label"] for image in check["images"]} == set(CLASSES)
    assert check["largest_difference"]["qupath"] <= check["tolerance"] == 1e-4
    card = (folder / "README.md").read_text()
    for words in ("medical device", "| 1 | `stroma` |", "| accuracy |", "Tiles are 48 pixels"):
        assert words in card
    assert str(results.parent) not in card
    assert [path.name for path in out.iterdir()] == [folder.name]


def test_card_has_the_scores_on_images_from_elsewhere(results, tmp_path, monkeypatch):
    copied, out = shutil.copytree(results, tmp_path / "grid"), tmp_path / "out"
    to_qupath = ("--to", "qupath", "--um-per-pixel", 0.5, "--out")
    assert run_export(monkeypatch, copied, *to_qupath, out / "before") == 0
    site = draw_images(tmp_path / "site", seed=7)
    command = ["bioimg", "evaluate", str(copied), str(site), "--name", "hospital-b"]
    monkeypatch.setattr(sys, "argv", command)
    assert main.main() == 0
    assert run_export(monkeypatch, copied, *to_qupath, out / "after") == 0
    before, after = (file.read_text() for file in sorted(out.rglob("README.md"), reverse=True))
    assert "It wasn't tested on images from elsewhere." in before
    assert "| `hospital-b` | 36 | " in after


def test_file_that_predicts_something_else_fails_the_export_and_nothing_is_left(
    results, tmp_path, monkeypatch, capsys
):
    predict = qupath.predict_probabilities
    monkeypatch.setattr(qupath, "predict_probabilities", lambda *args: predict(*args) + 2e-4)
    out = tmp_path / "out"
    assert (
        run_export(monkeypatch, results, *["--to", "qupath", "--um-per-pixel", "1", "--out"], out)
        == 2
    )
    assert "`qupath` differ from those of `bioimg predict` by 0.0002" in capsys.readouterr().err
    assert list(out.iterdir()) == []


def test_image_of_another_class_fails_the_export_even_within_the_tolerance(
    results, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(export_trial, "TOLERANCE", 1.0)
    predict = qupath.predict_probabilities
    monkeypatch.setattr(qupath, "predict_probabilities", lambda *args: predict(*args).roll(1, 1))
    args = ("--to", "qupath", "--um-per-pixel", 1, "--out", tmp_path / "out")
    assert run_export(monkeypatch, results, *args) == 2
    assert "with equal classes. Nothing was exported." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ("--key abc", "the value of `key` is 'abc', but must be one of:"),
        ("--to qupath", "the value of `um_per_pixel` isn't given"),
        ("--to onnx", "needs the packages onnx, onnxscript, onnxruntime. Install them: pip"),
    ],
)
def test_bad_flags_give_one_line(args, words, results, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert run_export(monkeypatch, results, *args.split(), "--out", tmp_path) == 2
    said = capsys.readouterr().err
    assert words in said
    assert len(said.strip().splitlines()) == 1


def test_existing_export_is_left_alone(results, tmp_path, monkeypatch, capsys):
    key = find_key(results, "none")
    (tmp_path / f"images-{key}").mkdir()
    assert run_export(monkeypatch, results, "--key", key, "--out", tmp_path) == 2
    assert "exists. Name another folder with --out, or remove it." in capsys.readouterr().err


def test_images_that_are_gone_are_told(results, tmp_path, monkeypatch, capsys):
    copied = shutil.copytree(results.parent, tmp_path / "lab")
    moved = results.parent / "images"
    moved.rename(results.parent / "moved")
    try:
        args = ("--out", tmp_path / "out")
        assert run_export(monkeypatch, copied / "grid", *args) == 2
    finally:
        (results.parent / "moved").rename(moved)
    assert "the value of `data` is" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.nightly
def test_weights_that_must_not_be_passed_on_stop_the_export_with_the_clause(
    transformer_results, tmp_path, monkeypatch, capsys
):
    args = (transformer_results, "--out", tmp_path)
    assert run_export(monkeypatch, *args) == 2
    said = capsys.readouterr().err
    assert "have the licence cc-by-nc-nd-4.0" in said
    assert "section 2(a)(1)(B)" in said
    assert run_export(monkeypatch, *args, "--licence-read") == 0
    (folder,) = tmp_path.iterdir()
    assert "**This model must not be passed on**" in (folder / "README.md").read_text()


@pytest.mark.nightly
@pytest.mark.parametrize("freeze", ["features", "none"])
@pytest.mark.parametrize("kind", ["results", "transformer_results"])
def test_every_format_predicts_what_bioimg_predicts(kind, freeze, request, tmp_path, monkeypatch):
    results: Path = request.getfixturevalue(kind)
    key = find_key(results, freeze)
    args = ("--to", "qupath", "onnx", "folder", "--um-per-pixel", 0.5, "--licence-read")
    assert run_export(monkeypatch, results, *args, "--key", key, "--out", tmp_path) == 0
    folder = tmp_path / f"images-{key}"
    check = json.loads((folder / "check.json").read_text())
    assert max(check["largest_difference"].values()) < 1e-4
    assert check["largest_difference"].keys() == {"qupath", "onnx", "folder"}

    images = results.parent / "images"
    table = predict_images(read_results(results), str(results), [key], images).table
    expected = table.set_index("path")[[f"probability of {name}" for name in CLASSES]]
    checked = {image["image"]: image["probabilities"] for image in check["images"]}
    for path, probabilities in checked.items():
        np.testing.assert_allclose(probabilities, expected.loc[path], atol=1e-5)

    model_files = folder / "qupath" / folder.name
    inputs = read_images_as_qupath(model_files, results.parent / "images", list(checked))
    np.save(tmp_path / "inputs.npy", inputs)
    files = (model_files / "torchscript_model.pt", tmp_path / "inputs.npy", tmp_path / "out.npy")
    subprocess.run([sys.executable, "-c", RUN_TORCHSCRIPT, *map(str, files)], check=True)
    given = np.load(tmp_path / "out.npy")
    np.testing.assert_allclose(given, expected.loc[list(checked)], atol=1e-4)


def read_images_as_qupath(model_files: Path, images: Path, paths: list[str]) -> np.ndarray:
    """Read images by the transforms in config.json."""
    transforms = json.loads((model_files / "config.json").read_text())["transform"]
    resize, _, normalise = (transform.get("arguments") for transform in transforms)
    tiles = []
    for path in paths:
        square = (resize["size"], resize["size"])
        tile = Image.open(images / path).resize(square, Image.Resampling.BILINEAR)
        values = np.asarray(tile, np.float32).transpose(2, 0, 1) / 255
        mean, std = (np.array(normalise[name])[:, None, None] for name in ("mean", "std"))
        tiles.append(((values - mean) / std).astype(np.float32))
    return np.stack(tiles)


@pytest.mark.nightly
def test_config_for_qupath_is_valid_for_the_model_zoo_of_wsinfer(results, tmp_path, monkeypatch):
    client = pytest.importorskip("wsinfer_zoo.client", reason="pip install wsinfer-zoo")
    args = ("--to", "qupath", "--um-per-pixel", 0.5, "--out", tmp_path)
    assert run_export(monkeypatch, results, *args) == 0
    (config,) = tmp_path.glob("*/qupath/*/config.json")
    assert client.validate_config_json(json.loads(config.read_text()))
