"""The command `bioimg predict`: the winner predicts new images as it predicted the test images."""

import base64
import dataclasses
import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import tifffile
import torch
from PIL import Image
from rich.console import Console

from bioimg import runner
from bioimg.cli import main
from bioimg.cli.report import ReportCommand
from bioimg.config import TrialConfig
from bioimg.errors import UserError
from bioimg.experiment import SPLIT_FIELDS, Experiment
from bioimg.prediction import explanations, predict_images
from bioimg.prediction.kept_trial import select_run_keys, select_trial_key, subset_by_digest
from bioimg.report.analysis import Analysis
from bioimg.report.open_results import open_results
from bioimg.results import statistics
from bioimg.results.result_store import Results, ResultStore, read_results
from bioimg.results.table_store import TABLE_SCHEMAS
from bioimg.run_options import RunOptions
from bioimg.storage.checked_parquet import encode_table
from bioimg.storage.partial_table import PartialTable, open_partial_table
from support import example_results

CLASSES = ("gland", "stroma", "tumour")


def draw(folder: Path) -> Path:
    """Sixteen-bit images that don't use the whole range, so that their scaling matters."""
    noise = np.random.default_rng(0)
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for number in range(12):
            pixels = (
                900
                + 150 * label
                + noise.normal(0, 60, (40, 48, 3))
                + 300 * noise.random() * (number == 0)
            )
            tifffile.imwrite(
                folder / name / f"{number:02d}.tif", pixels.astype(np.uint16), photometric="rgb"
            )
    return folder


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    """A small experiment on such images, its folder `data` beside it."""
    folder = tmp_path_factory.mktemp("predict")
    base = TrialConfig(
        **{
            "data": str(draw(folder / "data")),
            "model": "resnext_tiny",
            "weights": "TEXTURES_V2",
            "resize": "crop",
        },
        **{
            "image_size": 32,
            "epochs": 2,
            "batch_size": 8,
            "learning_rate": 1e-3,
            "precision": "float32",
        },
    )
    axes = {"freeze": ("none", "features"), "seed": (0, 1)}
    experiment = Experiment(name="predict", base=base, axes=axes, early_stopping=None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BIOIMG_CACHE", str(folder / "cache"))
        runner.run_experiment(
            experiment,
            RunOptions(out=str(folder / "out"), local=True, report=False),
            Console(file=io.StringIO()),
        )
    return folder / "out"


def predict(monkeypatch, *args: object) -> int:
    monkeypatch.setattr(sys, "argv", ["bioimg", "predict", *map(str, args)])
    return main.main()


def new(results: Path, key: str, folder: Path) -> tuple[Path, pd.DataFrame]:
    """The test images of a trial in a folder of their own, and their predictions in the table."""
    told = read_results(results).predictions
    told = told[told["key"].eq(key) & told["subset"].eq("test")]
    for path in told["image"]:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(results.parent / "data" / path, folder / path)
    return folder, told.sort_values("image", ignore_index=True)


@pytest.mark.parametrize("freeze", ["none", "features"])
def test_the_test_images_get_the_probabilities_of_the_table(
    freeze, results, tmp_path, monkeypatch, capsys
):
    trials = read_results(results).trials
    key = trials[trials["freeze"].eq(freeze)]["key"].iloc[1]
    folder, told = new(results, key, tmp_path / "new")
    assert (
        predict(monkeypatch, results, folder, "--key", key, "--out", tmp_path / "deep" / "p.csv")
        == 0
    )
    table = pd.read_csv(tmp_path / "deep" / "p.csv")
    assert table["path"].tolist() == told["image"].tolist()
    assert table["prediction"].tolist() == [CLASSES[label] for label in told["prediction"]]
    assert set(table["part"]) == {"test"}
    given = table[[f"probability of {name}" for name in CLASSES]].to_numpy(np.float32)
    expected = np.stack(told["probabilities"].tolist())
    if freeze == "none":  # the same batches: to the last bit
        assert np.array_equal(given, expected)
    assert np.allclose(given, expected, atol=1e-5)
    assert f"Predicted by trial {key}: " in (said := capsys.readouterr().out)
    assert "warning" not in said


def test_confidence_has_the_temperature_of_the_validation_images(
    results, tmp_path, monkeypatch, capsys
):
    seen = read_results(results)
    key = best(seen)
    folder, _ = new(results, key, tmp_path / "new")
    assert predict(monkeypatch, results, folder, "--out", tmp_path / "p.csv") == 0
    table = pd.read_csv(tmp_path / "p.csv")
    probabilities = table[[f"probability of {name}" for name in CLASSES]].to_numpy()
    calibration = statistics.calibrate_trials(seen, [key])
    expected = (np.log(probabilities) / calibration.temperature).astype(np.float64)
    expected = np.exp(expected) / np.exp(expected).sum(1, keepdims=True)
    assert np.allclose(table["confidence"], expected.max(1), atol=1e-5)
    before = statistics.calibration_table(seen, key).attrs["ece"]
    assert calibration.error_before == pytest.approx(before)
    said = " ".join(capsys.readouterr().out.split())
    assert f"temperature {calibration.temperature:.2f} from {calibration.val_images} valid" in said
    assert f"from {before:.1%}"[:-1] in said


@pytest.mark.parametrize("freeze", ["none", "features"])
def test_typicality_compares_images_with_the_validation_images(
    freeze, results, tmp_path, monkeypatch, capsys
):
    trials = read_results(results).trials
    key = trials[trials["freeze"].eq(freeze)]["key"].iloc[0]
    args = (results.parent / "data", "--key", key, "--typicality", "--out", tmp_path / "p.csv")
    assert predict(monkeypatch, results, *args) == 0
    table = pd.read_csv(tmp_path / "p.csv")
    val = table[table["part"].eq("val")]["typicality"]
    # each counts itself twice, unless it is rounded differently in another batch
    step = 1 / (len(val) + 1)
    expected = step * np.arange(2, len(val) + 2)
    assert np.abs(np.sort(val) - expected).max() < 1.01 * step
    assert table["typicality"].between(step, 1).all()
    said = " ".join(capsys.readouterr().out.split())
    assert f"Typicality: {len(val)} validation images are too few to call an image unlike." in said


def test_all_runs_of_a_recipe_predict_by_their_mean(results, tmp_path, monkeypatch, capsys):
    seen = read_results(results)
    keys = select_run_keys(seen, best(seen))
    assert len(keys) == 2
    folder, _ = new(results, keys[0], tmp_path / "new")
    columns = [f"probability of {name}" for name in CLASSES]
    tables = []
    for number, flags in enumerate([["--key", keys[0]], ["--key", keys[1]], ["--all-runs"]]):
        out = tmp_path / f"{number}.csv"
        assert predict(monkeypatch, results, folder, *flags, "--out", out) == 0
        tables.append(pd.read_csv(out))
    first, second, mean = (table[columns].to_numpy() for table in tables)
    assert not np.allclose(first, second, atol=1e-3)
    assert np.allclose(mean, (first + second) / 2, atol=1e-6)

    stored = seen.predictions[seen.predictions["subset"].eq("test")]
    stored = stored[stored["key"].isin(keys)].sort_values(["image", "key"])
    pairs = np.stack(stored["probabilities"].tolist()).reshape(-1, 2, len(CLASSES))
    labels = stored["label"].to_numpy()[::2]
    accuracy = (pairs.mean(1).argmax(1) == labels).mean()
    assert statistics.calibrate_trials(seen, keys).test_accuracy == pytest.approx(accuracy)
    said = " ".join(capsys.readouterr().out.split())
    assert "Predicted by the mean of 2 trials" in said
    assert f"Of {len(labels)} test images the mean has {100 * accuracy:.1f} % correct" in said


def test_runs_of_folds_predict_by_their_mean_and_each_scales_images_as_its_own(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("BIOIMG_CACHE", str(tmp_path / "cache"))
    base = TrialConfig(
        data=str(draw(tmp_path / "data")),
        model="resnext_tiny",
        weights="TEXTURES_V2",
        freeze="features",
        folds=3,
        **{"image_size": 32, "epochs": 1, "batch_size": 8, "precision": "float32"},
    )
    experiment = Experiment(name="folds", base=base, axes={"fold": (0, 1, 2)}, early_stopping=None)
    out = tmp_path / "out"
    options = RunOptions(out=str(out), local=True, report=False)
    runner.run_experiment(experiment, options, Console(file=io.StringIO()))
    columns = [f"probability of {name}" for name in CLASSES]
    alone = []
    for key in read_results(out).trials["key"]:
        table = tmp_path / f"{key}.csv"
        predict(monkeypatch, out, tmp_path / "data", "--key", key, "--out", table)
        alone.append(pd.read_csv(table)[columns].to_numpy())
    capsys.readouterr()
    assert (
        predict(monkeypatch, out, tmp_path / "data", "--all-runs", "--out", tmp_path / "m.csv") == 0
    )
    mean = pd.read_csv(tmp_path / "m.csv")
    assert np.allclose(mean[columns], np.mean(alone, axis=0), atol=1e-6)
    assert set(mean["part"]) == {"train"}, "each image was trained on in some fold"
    said = " ".join(capsys.readouterr().out.split())
    assert "Of 36 test images the mean has" in said
    assert "Each image counts by the trials that didn't train on it." in said


def test_images_that_the_trial_was_trained_on_are_told(results, tmp_path, monkeypatch, capsys):
    placed = pd.read_parquet(results / "images.parquet").set_index("image")["subset"]
    image = results.parent / "data" / "gland" / "05.tif"
    tifffile.imwrite(
        image.with_name("new.tif"), tifffile.imread(image) + np.uint16(1), photometric="rgb"
    )
    assert predict(monkeypatch, results, image.parent, "--out", tmp_path / "p.csv") == 0
    image.with_name("new.tif").unlink()
    table = pd.read_csv(tmp_path / "p.csv").set_index("path")["part"]
    assert pd.isna(table.pop("new.tif"))
    assert {f"gland/{path}": part for path, part in table.items()} == placed[
        placed.index.str.startswith("gland/")
    ].to_dict()
    seen = int(table.isin(["train", "val"]).sum())
    assert (
        f"warning: {seen} of 13 images were used to train or select this trial."
        in capsys.readouterr().out
    )


def test_an_image_with_copies_is_in_the_part_in_which_it_was_trained_on(tmp_path):
    trial = TrialConfig()
    way = {name: getattr(trial, name) for name in SPLIT_FIELDS}
    rows = [
        {"image": f"{part}.png", "digest": digest, "label": 0, "subset": part, "group": None, **way}
        for digest, copies in (("a", ("train", "test")), ("b", ("test", "val")), ("c", ("test",)))
        for part in copies
    ]
    store = ResultStore(tmp_path / "grid")
    store.open_for_writing(example_results.describe_experiment(trial, {}, ("x",)), rows)
    store.release()
    assert subset_by_digest(store, [trial]) == {"a": "train", "b": "val", "c": "test"}


def best(results: Results) -> str:
    losses = results.trials.groupby("freeze")["best_val_loss"].mean()
    rows = results.trials[results.trials["freeze"].eq(losses.idxmin())]
    return rows.loc[rows["best_val_loss"].idxmin(), "key"]


def test_without_a_key_it_is_the_best_of_the_configuration_that_validation_chose(
    results, tmp_path, monkeypatch, capsys
):
    image = results.parent / "data" / "tumour" / "03.tif"
    monkeypatch.chdir(tmp_path)
    assert predict(monkeypatch, results, image) == 0
    assert f"Predicted by trial {best(read_results(results))}: 1 " in capsys.readouterr().out
    assert pd.read_csv("predictions.csv")["path"].tolist() == ["03.tif"]


def test_parquet_file_has_the_same_table_as_a_csv_file(results, tmp_path, monkeypatch):
    image = results.parent / "data" / "tumour"
    for name in ("p.csv", "p.parquet"):
        assert predict(monkeypatch, results, image, "--out", tmp_path / name) == 0
    as_parquet = pd.read_parquet(tmp_path / "p.parquet")
    assert as_parquet["part"].isin(["train", "val", "test"]).all()
    pd.testing.assert_frame_equal(
        as_parquet, pd.read_csv(tmp_path / "p.csv"), check_dtype=False, check_exact=False
    )


def test_an_image_that_can_not_be_read_is_named_and_the_others_are_predicted(
    results, tmp_path, monkeypatch, capsys
):
    folder, told = new(results, best(read_results(results)), tmp_path / "new")
    (folder / "broken.tif").write_bytes((folder / told["image"][0]).read_bytes()[:200])
    assert predict(monkeypatch, results, folder, "--out", tmp_path / "p.csv") == 1
    assert "can't be read: broken.tif (" in capsys.readouterr().err
    assert len(pd.read_csv(tmp_path / "p.csv")) == len(told)


def test_images_of_another_depth_are_refused(results, tmp_path, monkeypatch, capsys):
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    assert predict(monkeypatch, results, tmp_path / "a.png") == 2
    assert not (tmp_path / "predictions.csv.partial").exists()
    assert (
        "holds uint8 images, but the model was trained on uint16 or float32"
        in capsys.readouterr().err
    )


def test_the_recipe_that_predicts_is_named_and_a_table_that_exists_is_left_alone(
    results, tmp_path, monkeypatch, capsys
):
    image, row = results.parent / "data" / "tumour" / "03.tif", read_results(results).trials.iloc[1]
    args = (results, image, "--key", row["key"], "--out", tmp_path / "p.csv")
    assert predict(monkeypatch, *args) == 0
    settings = (
        f"model=resnext_tiny weights=TEXTURES_V2 freeze={row['freeze']} seed={row['seed']} fold=0"
    )
    assert f"Its recipe: {settings}" in capsys.readouterr().out
    (tmp_path / "p.csv").write_text("mine")
    assert predict(monkeypatch, *args) == 2
    assert "which exists. Name another with --out, or remove it." in capsys.readouterr().err
    assert (tmp_path / "p.csv").read_text() == "mine"


def test_where_no_trial_is_completed_that_is_said_whether_a_key_is_given_or_not(results):
    seen = read_results(results)
    none = dataclasses.replace(
        seen, trials=seen.trials.assign(status="stopped", best_val_loss=np.nan)
    )
    for key in (None, seen.trials["key"][0]):
        with pytest.raises(
            UserError, match="must be results with a completed trial, but there is none"
        ):
            select_trial_key(none, key)


@pytest.mark.parametrize(("factor", "is_warned"), [(1, False), (2, True)])
def test_images_beyond_the_intensities_of_training_images_are_warned_of(
    results, tmp_path, monkeypatch, capsys, factor, is_warned
):
    for number in range(3):
        image = tifffile.imread(results.parent / "data" / "gland" / f"0{number}.tif")
        (tmp_path / "new").mkdir(exist_ok=True)
        file = tmp_path / "new" / f"{number}.tif"
        tifffile.imwrite(file, (factor * image).astype(np.uint16), photometric="rgb")
    assert predict(monkeypatch, results, tmp_path / "new", "--out", tmp_path / "p.csv") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert ("intensities of these images lie beyond those of the training images" in said) is (
        is_warned
    )
    assert "clipped" not in pd.read_csv(tmp_path / "p.csv")


def test_what_is_no_image_and_what_is_no_trial_are_refused_with_the_way_out(
    results, tmp_path, monkeypatch, capsys
):
    assert predict(monkeypatch, results, tmp_path / "nowhere") == 2
    assert "but must be an image or a folder of images (.png" in capsys.readouterr().err
    assert predict(monkeypatch, results, tmp_path, "--key", "abc") == 2
    assert "the value of `key` is 'abc', but must be one of:" in capsys.readouterr().err


KILLED = """
import os, signal, sys
from bioimg.prediction import predict_images
from bioimg.cli import main
from bioimg.storage.partial_table import PartialTable

predict_images.BLOCK_IMAGES = 8
write_block = PartialTable.write_block

def write_and_die(self, number, block):
    write_block(self, number, block)
    if number == 1:
        os.kill(os.getpid(), signal.SIGKILL)

PartialTable.write_block = write_and_die
sys.exit(main.main())
"""


def predict_until_killed(*args: object) -> int:
    """Run `bioimg predict` in a process that is killed once it has kept the second block."""
    words = [sys.executable, "-c", KILLED, "predict", *map(str, args)]
    # as many threads as here, so that sums have equal bits
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    return subprocess.run(words, check=False, env=environment).returncode


def predict_until_interrupted(monkeypatch, *args: object) -> int:
    """Run `bioimg predict` until the user interrupts it, once it has kept the second block."""
    write_block = PartialTable.write_block

    def write_and_interrupt(self, number, block):
        write_block(self, number, block)
        if number == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(PartialTable, "write_block", write_and_interrupt)
        return predict(patch, *args)


@pytest.fixture
def predicted_counts(monkeypatch) -> list[int]:
    """Blocks have eight images. Collect how many images each block has that is predicted."""
    counts = []
    predict_block = predict_images._Predictor.predict

    def count(self, index, progress):
        counts.append(len(index))
        return predict_block(self, index, progress)

    monkeypatch.setattr(predict_images, "BLOCK_IMAGES", 8)
    monkeypatch.setattr(predict_images._Predictor, "predict", count)
    return counts


@pytest.mark.parametrize("is_killed", [True, False])
def test_interrupted_command_predicts_only_what_is_missing(
    is_killed, results, tmp_path, monkeypatch, capsys, predicted_counts
):
    folder = Path(shutil.copytree(results.parent / "data", tmp_path / "data"))
    (folder / "broken.tif").write_bytes(b"II*")
    whole, resumed = tmp_path / "whole.parquet", tmp_path / "resumed.parquet"
    assert predict(monkeypatch, results, folder, "--out", whole) == 1
    assert predicted_counts == [8, 8, 8, 8, 5]
    args = (results, folder, "--out", resumed)
    if is_killed:
        assert predict_until_killed(*args) == -9
    else:
        assert predict_until_interrupted(monkeypatch, *args) == 130
        assert "run the same command again to go on" in capsys.readouterr().err
    assert not resumed.exists()
    predicted_counts.clear()
    capsys.readouterr()
    assert predict(monkeypatch, *args) == 1
    assert predicted_counts == [8, 8, 5]
    said = capsys.readouterr().err
    assert "Going on: up to 16 images were predicted before." in said
    assert "can't be read: broken.tif" in said
    pd.testing.assert_frame_equal(
        pd.read_parquet(resumed), pd.read_parquet(whole), check_exact=True
    )
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize("change", ["image", "trial", "option"])
def test_command_on_other_images_trials_or_options_starts_anew(
    change, results, tmp_path, monkeypatch, capsys, predicted_counts
):
    folder = Path(shutil.copytree(results.parent / "data", tmp_path / "data"))
    args = [results, folder, "--out", tmp_path / "p.csv"]
    assert predict_until_interrupted(monkeypatch, *args) == 130
    predicted_counts.clear()
    if change == "image":
        image = tifffile.imread(folder / "gland" / "05.tif")
        tifffile.imwrite(folder / "gland" / "05.tif", image + np.uint16(1), photometric="rgb")
    elif change == "trial":
        seen = read_results(results)
        args += ["--key", next(key for key in seen.trials["key"] if key != best(seen))]
    else:
        args.append("--all-runs")
    assert predict(monkeypatch, *args) == 0
    assert sum(predicted_counts) == 36
    assert "Starting anew: images, trials or options aren't those" in capsys.readouterr().err
    assert len(pd.read_csv(tmp_path / "p.csv")) == 36


def test_damaged_block_is_predicted_again(results, tmp_path, monkeypatch, predicted_counts):
    args = (results, results.parent / "data", "--out", tmp_path / "p.csv")
    assert predict_until_interrupted(monkeypatch, *args) == 130
    predicted_counts.clear()
    block = sorted((tmp_path / "p.csv.partial").glob("block-*"))[0]
    content = bytearray(block.read_bytes())
    content[100] ^= 1
    block.write_bytes(content)
    assert predict(monkeypatch, *args) == 0
    assert predicted_counts == [8, 8, 8, 4]


def test_table_that_another_process_makes_is_refused(results, tmp_path, monkeypatch, capsys):
    out = tmp_path / "p.csv"
    with open_partial_table(out, "other", pa.schema([])):
        assert predict(monkeypatch, results, results.parent / "data", "--out", out) == 2
    assert "which another process is making. Wait for it" in capsys.readouterr().err


def test_table_that_cannot_be_written_is_refused_before_images_are_predicted(
    results, tmp_path, monkeypatch, capsys, predicted_counts
):
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "p.csv"
    assert predict(monkeypatch, results, results.parent / "data", "--out", out) == 2
    assert "p.csv', which can't be written" in capsys.readouterr().err
    assert predicted_counts == []


def test_block_of_unreadable_images_costs_no_other_block(
    results, tmp_path, monkeypatch, capsys, predicted_counts
):
    folder = Path(shutil.copytree(results.parent / "data", tmp_path / "data"))
    for number in range(9):
        (folder / f"broken{number}.tif").write_bytes(b"II*")
    out = tmp_path / "p.csv"
    assert predict(monkeypatch, results, folder, "--out", out) == 1
    assert capsys.readouterr().err.count("can't be read: broken") == 9
    assert len(pd.read_csv(out)) == 36
    assert predict(monkeypatch, results, folder / "broken1.tif", "--out", tmp_path / "b.csv") == 2
    assert "none of the 1 images in 'broken1.tif' can be read" in capsys.readouterr().err


def test_blocks_of_several_depths_are_refused(
    results, tmp_path, monkeypatch, capsys, predicted_counts
):
    folder = Path(shutil.copytree(results.parent / "data", tmp_path / "data"))
    for image in (folder / "tumour").iterdir():
        pixels = tifffile.imread(image).astype(np.float32)
        tifffile.imwrite(image, pixels, photometric="rgb")
    for number in range(4):
        (folder / "gland" / f"0{number}.tif").unlink()
        (folder / "stroma" / f"0{number}.tif").unlink()
    assert predict(monkeypatch, results, folder, "--out", tmp_path / "p.csv") == 2
    error = capsys.readouterr().err.strip()
    assert "the images in 'data' have different depths" in error
    assert "(float32)" in error
    assert error.count("\n") == 0


@pytest.mark.parametrize("freeze", ["none", "features"])
def test_explained_images_are_shown_beside_their_maps(
    freeze, results, tmp_path, monkeypatch, capsys
):
    trials = read_results(results).trials
    key = trials[trials["freeze"].eq(freeze)]["key"].iloc[0]
    args = (results, results.parent / "data", "--key", key, "--out", tmp_path / "p.csv")
    assert predict(monkeypatch, *args, "--explain", tmp_path / "maps") == 0
    pictures = sorted((tmp_path / "maps").rglob("*.png"))
    assert len(pictures) == 36
    assert pictures[0].relative_to(tmp_path / "maps").as_posix() == "gland/00.tif.png"
    pixels = np.asarray(Image.open(pictures[0]))
    assert pixels.shape == (32, 64, 3)
    assert not np.array_equal(pixels[:, :32], pixels[:, 32:])
    said = (tmp_path / "maps" / "README.txt").read_text()
    assert "evidence that the model looks at the right tissue" in " ".join(said.split())
    assert "what they are not (README.txt)" in " ".join(capsys.readouterr().out.split())


def test_images_that_can_not_be_explained_are_refused(results, tmp_path, monkeypatch, capsys):
    data = results.parent / "data"
    args = (results, data, "--out", tmp_path / "p.csv", "--explain")
    with monkeypatch.context() as patch:
        patch.setattr("bioimg.training.class_maps.MIN_GRID", 33)
        assert predict(monkeypatch, *args, tmp_path / "maps") == 2
    assert "none of its layers has maps of at least 33 x 33" in capsys.readouterr().err
    assert predict(monkeypatch, *args, data / "maps") == 2
    assert "but must not lie in the folder of the images" in capsys.readouterr().err
    monkeypatch.setattr(explanations, "MAX_EXPLAINED_IMAGES", 35)
    assert predict(monkeypatch, *args, tmp_path / "maps") == 2
    assert "holds 36, and at most 35 are explained" in capsys.readouterr().err


def copy_with_mistakes(results: Path, folder: Path, count: int) -> Path:
    """Copy results, with this many wrong predictions of the best recipe's first run."""
    shutil.copytree(results, folder)
    file = folder / "predictions.parquet"
    rows = pd.read_parquet(file)
    best = Analysis(open_results(folder)).tested_trials["key"].iloc[0]
    tested = rows.index[rows["key"].eq(best) & rows["subset"].eq("test")]
    for position, row in enumerate(tested):
        right = rows.at[row, "label"]
        chosen = (right + (position < count)) % len(CLASSES)
        rows.at[row, "prediction"] = chosen
        rows.at[row, "probabilities"] = np.eye(len(CLASSES), dtype=np.float32)[chosen]
    store = ResultStore(folder)
    table = pa.Table.from_pandas(rows, schema=TABLE_SCHEMAS["predictions"], preserve_index=False)
    store.storage.write("predictions.parquet", encode_table(table))
    return folder


@pytest.mark.parametrize("count", [0, 3])
def test_page_shows_where_the_model_finds_its_worst_mistakes(results, tmp_path, count):
    folder = copy_with_mistakes(results, tmp_path / "results", count)
    out = tmp_path / "report"
    assert ReportCommand(folder=str(folder), explain=True, out=out, format=()).run() == 0
    page = (out / "report.html").read_text()
    assert ("no evidence that the model looks" in " ".join(page.split())) == (count > 0)
    gallery = page.split('<section id="mistakes"')[1].split("</section>")[0]
    pictures = []
    for data in re.findall(r'<img src="data:image/png;base64,([^"]+)"', gallery):
        pictures.append(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))))
    assert len(pictures) == 2 * count
    coloured = []
    for image, overlay in zip(pictures[::2], pictures[1::2], strict=True):
        assert image.shape == overlay.shape == (32, 32, 3)
        coloured.append(not np.array_equal(image, overlay))
    # where nothing raises the score of a class, its map has no colour
    assert any(coloured) == (count > 0)


def test_mistakes_that_can_not_be_explained_are_refused(results, tmp_path):
    folder = copy_with_mistakes(results, tmp_path / "results", 1)
    command = ReportCommand(folder=str(folder), explain=True, rows="seed == 0")
    with pytest.raises(UserError, match="`explain` is True, but must be False where rows"):
        command.run()
    (mistake,) = Analysis(open_results(folder)).worst_mistakes["image"]
    file = results.parent / "data" / mistake
    content = file.read_bytes()
    file.write_bytes((results.parent / "data" / "gland" / "01.tif").read_bytes())
    try:
        with pytest.raises(UserError, match=f"{mistake} isn't where it was, or has changed"):
            explanations.explain_mistakes(str(folder))
    finally:
        file.write_bytes(content)
    shutil.rmtree(folder / "checkpoints")
    with pytest.raises(UserError, match="Weights are kept with --keep best"):
        explanations.explain_mistakes(str(folder))
