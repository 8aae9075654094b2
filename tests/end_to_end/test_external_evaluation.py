"""The command `bioimg evaluate`: recipes on labelled images from elsewhere."""

import io
import json
import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from rich.console import Console
from sklearn.metrics import accuracy_score

import bioimg
from bioimg import external_evaluation, runner
from bioimg.cli import main
from bioimg.config import TrialConfig
from bioimg.experiment import Experiment
from bioimg.report.analysis import Analysis
from bioimg.report.checks import external_checks
from bioimg.results.external_sets import read_external_sets
from bioimg.results.looks import read_looks
from bioimg.results.result_store import read_results
from bioimg.run_options import RunOptions
from support import PROJECT
from support.image_folders import write_tiff_folder

CLASSES = ("gland", "stroma", "tumour")
COLOURS = ((150, 60, 150), (220, 120, 180), (90, 40, 130))


def draw(folder: Path, seed: int, images: int = 10, classes: tuple[str, ...] = CLASSES) -> Path:
    """Noisy tiles of each class, two of each patient."""
    noise = np.random.default_rng(seed)
    for label, (name, colour) in enumerate(zip(classes, COLOURS, strict=False)):
        (folder / name).mkdir(parents=True)
        for number in range(images):
            pixels = noise.normal(colour, 50, (32, 32, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(
                folder / name / f"{seed}p{label}{number // 2}_{number}.png"
            )
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small experiment in `results`, its images in `data`, others in `site`."""
    folder = tmp_path_factory.mktemp("evaluate")
    draw(folder / "site", seed=1)
    base = TrialConfig(
        data=str(draw(folder / "data", seed=0)),
        group_pattern=r"(\dp\d+)_",
        model="resnext_tiny",
        weights="TEXTURES_V2",
        image_size=32,
        epochs=1,
        batch_size=8,
        precision="float32",
    )
    axes = {"freeze": ("none", "features"), "seed": (0, 1)}
    experiment = Experiment(name="grid", base=base, axes=axes, early_stopping=None)
    options = RunOptions(out=str(folder / "results"), local=True, report=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BIOIMG_CACHE", str(folder / "cache"))
        runner.run_experiment(experiment, options, Console(file=io.StringIO()))
    return folder


@pytest.fixture
def results(made: Path, tmp_path: Path) -> Path:
    """A copy of the results, to which a test may add."""
    return Path(shutil.copytree(made / "results", tmp_path / "results"))


@pytest.fixture
def run(made: Path, monkeypatch: pytest.MonkeyPatch):
    """Run a command of `bioimg`."""
    monkeypatch.setenv("BIOIMG_CACHE", str(made / "cache"))

    def run(*args: object) -> int:
        monkeypatch.setattr(sys, "argv", ["bioimg", *map(str, args)])
        return main.main()

    return run


def external_rows(results: Path, name: str = "b") -> pd.DataFrame:
    rows = read_results(results).predictions
    return rows[rows["subset"].eq(f"external:{name}")]


def training_image(results: Path) -> str:
    images = read_results(results).images
    return images.loc[images["subset"].eq("train"), "image"].iloc[0]


def test_each_trial_predicts_the_external_images_as_predict_does(made, results, run, tmp_path):
    assert run("evaluate", results, made / "site", "--name", "b") == 0
    rows = external_rows(results)
    trials = read_results(results).trials
    assert rows["key"].value_counts().to_dict() == dict.fromkeys(trials["key"], 30)
    for key in trials["key"]:
        table = tmp_path / f"{key}.csv"
        assert run("predict", results, made / "site", "--key", key, "--out", table) == 0
        expected = pd.read_csv(table).set_index("path")
        own = rows[rows["key"].eq(key)].set_index("image")
        columns = [f"probability of {name}" for name in CLASSES]
        shown = expected.loc[own.index, columns].to_numpy()
        np.testing.assert_allclose(np.stack(own["probabilities"].tolist()), shown, atol=1e-5)
        assert [CLASSES[label] for label in own["label"]] == [
            image.split("/")[0] for image in own.index
        ]


def test_score_there_is_that_of_scikit_learn_and_the_choice_stays_at_home(made, results, run):
    before = Analysis(read_results(results)).best
    assert run("evaluate", results, made / "site", "--name", "b") == 0
    analysis = Analysis(read_results(results))
    assert before is not None
    assert analysis.best is not None
    assert (analysis.best.key, analysis.best.score) == (before.key, before.score)
    (tested,) = analysis.external_sets
    rows = external_rows(results)
    for key, scores in tested.scores.iterrows():
        runs = [run for run, first in analysis.configuration_by_trial.items() if first == key]
        expected = []
        for run_key in runs:
            own = rows[rows["key"].eq(run_key)]
            expected.append(accuracy_score(own["label"], own["prediction"]))
        assert scores["score_away"] == pytest.approx(np.mean(expected))
        home = analysis.configuration_scores.loc[key, "score"]
        assert scores["change"] == pytest.approx(np.mean(expected) - home)


def test_second_evaluation_runs_only_what_is_missing_and_is_counted(made, results, run, capsys):
    first, *others = read_results(results).trials["key"]
    command = ("evaluate", results, made / "site", "--name", "b")
    assert run(*command, "--key", first) == 0
    assert set(external_rows(results)["key"]) == {first}
    kept = external_rows(results).reset_index(drop=True)
    assert run(*command) == 0
    assert "3 trials were evaluated on b." in capsys.readouterr().out
    rows = external_rows(results)
    assert set(rows["key"]) == {first, *others}
    again = rows[rows["key"].eq(first)].reset_index(drop=True)
    pd.testing.assert_frame_equal(again, kept)
    assert run(*command) == 0
    record = read_external_sets(read_results(results).manifest)["b"]
    assert [look.completed for look in record.looks] == [1, 4]
    said = capsys.readouterr().out
    assert "All 4 trials were evaluated on b before." in said
    assert "evaluated on b 2 times" in " ".join(said.split())


def test_interrupted_evaluation_goes_on_with_what_is_missing(
    made, results, run, monkeypatch, capsys
):
    evaluate_trial = external_evaluation._evaluate_trial

    def evaluate_once(*args):
        evaluate_trial(*args)
        raise KeyboardInterrupt

    command = ("evaluate", results, made / "site", "--name", "b")
    with monkeypatch.context() as patch:
        patch.setattr(external_evaluation, "_evaluate_trial", evaluate_once)
        assert run(*command) == 130
    assert external_rows(results)["key"].nunique() == 1
    assert run(*command) == 0
    assert "3 trials were evaluated on b." in capsys.readouterr().out


def test_tables_keep_their_order_and_no_part_is_left(made, results, run):
    before = read_results(results)
    assert run("evaluate", results, made / "site", "--name", "b") == 0
    after = read_results(results)
    pd.testing.assert_frame_equal(after.trials, before.trials)
    at_home = after.predictions[after.predictions["subset"].isin(["val", "test"])]
    pd.testing.assert_frame_equal(at_home.reset_index(drop=True), before.predictions)
    assert not list((results / "internal" / "parts").glob("*"))
    # the scores at home were printed beside the others
    assert [look.completed for look in read_looks(results)][-1] == 4
    assert not (results / "internal" / "running.json").exists()


def test_copies_of_training_images_stop_it_or_are_left_out(made, results, run, tmp_path, capsys):
    site = Path(shutil.copytree(made / "site", tmp_path / "site"))
    image = training_image(results)
    copy = site / Path(image).parent / "copy.png"
    shutil.copy(made / "data" / image, copy)
    command = ("evaluate", results, site, "--name", "b")
    assert run(*command) == 2
    said = capsys.readouterr().err
    assert "1 of 31 images" in said
    assert f"{copy.relative_to(site)}. Remove them" in said
    assert run(*command, "--skip-copies") == 0
    assert external_rows(results)["image"].nunique() == 30
    assert read_external_sets(read_results(results).manifest)["b"].copies_left_out == 1


def test_turned_copies_and_equal_group_names_are_doubts(made, results, run, tmp_path, capsys):
    site = Path(shutil.copytree(made / "site", tmp_path / "site"))
    image = training_image(results)
    turned = site / Path(image).parent / Path(image).name.replace("_", "_9")
    Image.open(made / "data" / image).transpose(Image.Transpose.ROTATE_90).save(turned)
    pattern = ("--group-pattern", r"(\dp\d+)_")
    assert run("evaluate", results, site, "--name", "b", *pattern) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "1 images look like a training or validation image" in said
    assert "1 groups have the name of a group of training or validation images" in said
    record = read_external_sets(read_results(results).manifest)["b"]
    assert (record.look_alikes, record.known_groups, record.groups) == (1, 1, 16)


def test_other_class_names_need_a_map(made, results, run, tmp_path, capsys):
    site = draw(tmp_path / "site", 2, classes=("gland", "stroma", "tumor"))
    command = ("evaluate", results, site, "--name", "b")
    assert run(*command) == 2
    assert "but it has: tumor. Say which class" in capsys.readouterr().err
    assert run(*command, "--map", "tumor=tumour") == 0
    rows = external_rows(results)
    mapped = rows["image"].str.startswith("tumor/")
    assert set(rows.loc[mapped, "label"]) == {CLASSES.index("tumour")}


def test_missing_class_is_noted(made, results, run, tmp_path, capsys):
    site = draw(tmp_path / "site", 3, classes=("gland", "stroma"))
    assert run("evaluate", results, site, "--name", "b") == 0
    assert "it has no image of: tumour." in capsys.readouterr().out
    (tested,) = Analysis(read_results(results)).external_sets
    assert tested.scores["balanced_accuracy"].notna().all()


def test_images_of_another_depth_leave_no_trace(made, results, run, tmp_path, capsys):
    site = write_tiff_folder(tmp_path / "site")
    command = ("evaluate", results, site, "--name", "b", "--map", "a=gland", "b=stroma")
    assert run(*command) == 2
    assert "holds uint16 images, but the model was trained on uint8" in capsys.readouterr().err
    assert not json.loads((results / "experiment.json").read_text())["external"]


@pytest.mark.parametrize(("scale", "is_warned"), [(1, False), (1.5, True)])
def test_brighter_images_of_another_scanner_are_warned_of(run, tmp_path, capsys, scale, is_warned):
    data = write_tiff_folder(tmp_path / "data")
    site = write_tiff_folder(tmp_path / "site", scale=scale * 0.9)
    recipe = ("--model", "resnext_tiny", "--weights", "none", "--image-size", "16", "--local")
    command = ("compare", data, *recipe, "--epochs", "1", "--batch-size", "4", "--precision")
    assert run(*command, "float32", "--learning-rate", "1e-3", "--out", tmp_path / "out") == 0
    capsys.readouterr()
    assert run("evaluate", tmp_path / "out", site, "--name", "b") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert ("lie beyond those of the training images and are clipped" in said) is is_warned
    record = read_external_sets(read_results(tmp_path / "out").manifest)["b"]
    assert record.clipped_share is not None
    assert (record.clipped_share > 0.02) is is_warned
    codes = [check.code for check in external_checks("b", record, has_folds=False)]
    assert ("external_clipped" in codes) is is_warned


def test_name_stands_for_one_set_of_images(made, results, run, tmp_path, capsys):
    assert run("evaluate", results, made / "site", "--name", "b") == 0
    other = draw(tmp_path / "other", seed=4)
    assert run("evaluate", results, other, "--name", "b") == 2
    assert "differ from them in names, pixels, labels or groups" in capsys.readouterr().err
    pattern = ("--group-pattern", r"(\dp\d+)_")
    assert run("evaluate", results, made / "site", "--name", "b", *pattern) == 2
    assert run("evaluate", results, other, "--name", "c") == 0
    assert len(Analysis(read_results(results)).external_sets) == 2


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--name", "a/b"), "the value of `name` is 'a/b', but must be letters"),
        (("--name", "b", "--map", "tumour"), "the value of `map` is 'tumour', but must be"),
        (("--name", "b", "--map", "tumor=gland"), "the value of `map` is 'tumor', but must be one"),
        (("--name", "b", "--map", "gland=gall"), "the value of `map` is 'gall', but must be one"),
        (("--name", "b", "--key", "abc"), "the value of `key` is 'abc', but must be one of"),
        (("--name", "b", "--group-pattern", "copies"), "`group_pattern` is 'copies', but must"),
        (("--name", "b", "--columns", "path=file"), "`columns` is 'path=file', but it is only"),
    ],
)
def test_bad_input_gives_one_line(flags, said, made, results, run, capsys):
    assert run("evaluate", results, made / "site", *flags) == 2
    error = capsys.readouterr().err.strip()
    assert said in error
    assert error.count("\n") == 0


def test_results_without_weights_and_missing_folders_are_refused(made, results, run, capsys):
    assert run("evaluate", results, made / "nowhere", "--name", "b") == 2
    assert "but there is no such folder or file" in capsys.readouterr().err
    assert run("evaluate", made / "nowhere", made / "site", "--name", "b") == 2
    assert "but there is no such folder" in capsys.readouterr().err
    shutil.rmtree(results / "checkpoints")
    assert run("evaluate", results, made / "site", "--name", "b") == 2
    assert "no completed trial whose weights were kept" in capsys.readouterr().err


QUICK_RUN = ("--model", "resnext_tiny", "--weights", "TEXTURES_V2", "--image-size", "32", "--tune")
QUICK_RUN += ("--learning-rate", "1e-3", "--epochs", "1", "--batch-size", "8", "--local")


def test_run_ends_with_the_evaluation_that_evaluate_makes(made, run, tmp_path, capsys):
    command = ("compare", made / "data", *QUICK_RUN, "--out", tmp_path / "out")
    external = ("--external", f"b={made / 'site'}")
    assert run(*command, "--freeze", "features", *external) == 0
    assert "On b, the recipe that validation chose" in " ".join(capsys.readouterr().out.split())
    assert "On b, the recipe" in (tmp_path / "out" / "report" / "report.html").read_text()
    first = external_rows(tmp_path / "out")
    # the weights that were kept predict the same once more
    assert run("evaluate", tmp_path / "out", made / "site", "--name", "c") == 0
    again = external_rows(tmp_path / "out", "c").assign(subset="external:b")
    pd.testing.assert_frame_equal(
        again.reset_index(drop=True), first.reset_index(drop=True), check_exact=False
    )
    # another recipe: only that one is evaluated
    assert run(*command, "--freeze", "features", "none", *external) == 0
    assert "1 trials were evaluated on b." in capsys.readouterr().out
    assert external_rows(tmp_path / "out")["key"].nunique() == 2


def test_external_sets_from_python_are_a_dict(made, tmp_path, monkeypatch):
    monkeypatch.setenv("BIOIMG_CACHE", str(made / "cache"))
    recipe = {"model": "resnext_tiny", "weights": "TEXTURES_V2", "freeze": "features", "tune": ()}
    compared = bioimg.compare(
        made / "data",
        **recipe,
        **{"learning_rate": 1e-3, "epochs": 1, "batch_size": 8, "image_size": 32, "local": True},
        external={"b": made / "site"},
        aggregate="max",
        out=tmp_path / "out",
        report=False,
    )
    assert len(external_rows(tmp_path / "out")) == 30
    results = read_results(compared.folder)
    assert "b" in read_external_sets(results.manifest)
    assert results.aggregate == "max"


@pytest.mark.parametrize(
    ("external", "said"),
    [
        ("site", "the value of `external` is 'site', but must be a name of letters"),
        ("a/b={site}", "but must be a name of letters, digits, - . and _, and where the images"),
        ("b=", "the value of `external` is 'b=', but must be a name of letters"),
        ("b={site} b={site}", "and each name once. Correct it."),
        ("b={made}/nowhere", "external set 'b': the value of `data` is"),
        ("b={other}", "external set 'b': the classes of 'other' must be those of the experiment"),
        ("b={data}", "are copies of training or validation images, on which no score is fair"),
        ("b={tiff}", "which holds uint16 images, but the model was trained on uint8"),
        ("b={site} --keep none", "`keep` is 'none', but must be 'best' or 'all' with --external"),
    ],
)
def test_unusable_external_set_stops_a_run_before_it_trains(
    external, said, made, run, tmp_path, capsys
):
    tiff = write_tiff_folder(tmp_path / "tiff")
    for old, new in (("a", "gland"), ("b", "stroma")):
        (tiff / old).rename(tiff / new)
    folders = {name: made / name for name in ("site", "data")}
    other = draw(tmp_path / "other", 5, images=1, classes=("x", "y"))
    words = external.format(**folders, made=made, other=other, tiff=tiff).split()
    command = ("compare", made / "data", *QUICK_RUN, "--out", tmp_path / "out")
    assert run(*command, "--external", *words) == 2
    error = capsys.readouterr().err.strip()
    assert said in error
    assert error.count("\n") == 0
    assert not (tmp_path / "out" / "experiment.json").exists()


def test_name_of_other_images_stops_a_run_before_it_trains(made, results, run, tmp_path, capsys):
    site = ("--external", f"b={made / 'site'}")
    command = ("compare", made / "data", *QUICK_RUN, "--out", tmp_path / "out")
    assert run(*command, "--freeze", "features", *site) == 0
    before = read_results(tmp_path / "out").trials
    other = draw(tmp_path / "other", seed=6)
    assert run(*command, "--freeze", "none", "--external", f"b={other}") == 2
    assert "differ from them in names, pixels, labels or groups" in capsys.readouterr().err
    pd.testing.assert_frame_equal(read_results(tmp_path / "out").trials, before)


def test_set_that_is_gone_after_training_costs_no_report(made, run, tmp_path, monkeypatch, capsys):
    site = Path(shutil.copytree(made / "site", tmp_path / "site"))
    train_trials = runner.train_trials

    def train_and_remove(*args):
        ran = train_trials(*args)
        shutil.rmtree(site)
        return ran

    monkeypatch.setattr(runner, "train_trials", train_and_remove)
    command = ("compare", made / "data", *QUICK_RUN, "--freeze", "features")
    external = ("--external", f"b={site}", f"c={made / 'site'}")
    assert run(*command, "--out", tmp_path / "out", *external) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "not evaluated on b: the value of `data` is" in said
    assert len(external_rows(tmp_path / "out", "c")) == 30
    assert (tmp_path / "out" / "report" / "report.html").exists()


def draw_other_stain(folder: Path) -> Path:
    """Write the synthetic set of another seed, with all three colours absorbed otherwise."""
    program = runpy.run_path(str(PROJECT / "experiments" / "make_synthetic_tissue.py"))
    for path, pixels in program["draw_tiles"](1).items():
        density = -np.log((pixels + 1.0) / 256) * [2.0, 0.3, 1.4]
        shifted = (256 * np.exp(-density) - 1).clip(0, 255).round().astype(np.uint8)
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(shifted).save(folder / path)
    return folder


@pytest.mark.nightly
def test_another_stain_lowers_trained_recipes_more_than_frozen_ones(tmp_path, monkeypatch, capsys):
    """Measured: all layers −12.5 points, head only −1.2 points, and the order turns round."""
    base = TrialConfig(
        data="phantom",
        split="grouped",
        model="resnext_tiny",
        weights="TEXTURES_V2",
        image_size=64,
        epochs=5,
        learning_rate=6e-4,
        head_rate_factor=10.0,
        precision="float32",
    )
    axes = {"freeze": ("none", "features"), "seed": (0, 1, 2)}
    experiment = Experiment(name="grid", base=base, axes=axes, early_stopping=None)
    results = tmp_path / "results"
    options = RunOptions(out=str(results), local=True, report=False)
    runner.run_experiment(experiment, options, Console(file=io.StringIO()))
    site = draw_other_stain(tmp_path / "site")
    words = ["bioimg", "evaluate", str(results), str(site), "--name", "other-stain"]
    monkeypatch.setattr(sys, "argv", words)
    assert main.main() == 0
    analysis = Analysis(read_results(results))
    (tested,) = analysis.external_sets
    freeze = analysis.first_trials["freeze"].reindex(tested.scores.index)
    change = tested.scores["change"].groupby(freeze).mean()
    assert change["none"] < change["features"] - 0.05
    said = " ".join(capsys.readouterr().out.split())
    assert "Mean change, by what was trained: all layers −" in said
    assert "There trained: head only has" in said or "There the order turns round" in said
