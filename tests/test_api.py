"""bioimg from Python means the same as the command line, and returns one object of results."""

import subprocess
import sys

import nbformat
import pandas as pd
import pytest
from nbclient import NotebookClient

import bioimg
from bioimg.cli import grid_flags
from bioimg.experiment_files import load_experiment_file
from bioimg.experiment_settings import apply_settings
from bioimg.prediction.kept_trial import select_run_keys
from bioimg.results import result_store
from support import PROJECT
from support.image_folders import write_image_folder

QUICK = {"weights": "TEXTURES_V2", "batch_size": 64, "epochs": 1, "local": True, "report": False}


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> bioimg.ComparisonResults:
    folder = tmp_path_factory.mktemp("api")
    return bioimg.compare(freeze="features", seed=[0, 1], out=folder / "out", **QUICK)


def demo():
    return load_experiment_file(PROJECT / "experiments", "demo")[0]


@pytest.mark.ray
def test_import_loads_nothing_heavy_and_takes_under_50_ms():
    code = (
        "import sys, time; start = time.process_time(); import bioimg; "
        "seconds = time.process_time() - start; assert 'compare' in dir(bioimg); "
        "heavy = {'ray', 'torch', 'torchvision', 'pandas', 'numpy'} & set(sys.modules); "
        "print(seconds, sorted(heavy))"
    )
    shown = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        for _ in range(3)
    ]
    seconds = [float(process.stdout.split()[0]) for process in shown]
    assert {process.stdout.split(maxsplit=1)[1].strip() for process in shown} == {"[]"}
    assert min(seconds) < 0.05


def test_table_has_a_row_per_configuration(results):
    table = results.table
    assert isinstance(table, pd.DataFrame)
    assert table["freeze"].tolist() == ["features"]
    assert {"test_accuracy", "status"} <= set(table.columns)
    assert table["runs"].tolist() == [2]


def test_best_is_a_row_of_the_table(results):
    assert results.best["key"] == results.table["key"].iloc[0]
    assert results.best["weights"] == "TEXTURES_V2"


def test_results_are_read_again_from_their_folder(results):
    again = bioimg.read_results(results.folder)
    pd.testing.assert_frame_equal(again.table, results.table)


def test_repeated_call_trains_nothing(results, capsys):
    bioimg.compare(freeze="features", seed=[0, 1], out=results.folder, **QUICK)
    assert "epoch 1/1" not in capsys.readouterr().out


def test_report_is_written_and_its_folder_returned(results, tmp_path):
    folder = results.report(format="csv", figures=False, out=tmp_path / "report")
    assert folder == tmp_path / "report"
    assert (folder / "report.html").exists()
    assert (folder / "comparison.csv").exists()


def test_new_images_are_predicted(results, tmp_path):
    from PIL import Image

    for number in range(2):
        Image.new("RGB", (64, 64), (200, 150, 40 * number)).save(tmp_path / f"{number}.png")
    table = results.predict(tmp_path)
    probabilities = table.filter(like="probability of")
    assert len(table) == 2
    assert probabilities.sum(axis=1).tolist() == pytest.approx([1, 1])


def test_unreadable_image_is_warned_of(results, tmp_path):
    from PIL import Image

    Image.new("RGB", (64, 64)).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"not an image")
    with pytest.warns(UserWarning, match=r"can't be read: bad\.png"):
        assert len(results.predict(tmp_path)) == 1


def test_all_runs_predict_by_their_mean(results, tmp_path):
    from PIL import Image

    Image.new("RGB", (64, 64), (200, 150, 40)).save(tmp_path / "new.png")
    seen = result_store.read_results(results.folder)
    keys = select_run_keys(seen, results.best["key"])
    assert len(keys) == 2
    alone = [results.predict(tmp_path, key).filter(like="probability of") for key in keys]
    mean = results.predict(tmp_path, all_runs=True).filter(like="probability of")
    pd.testing.assert_frame_equal(mean, sum(alone) / len(alone), atol=1e-6)


def test_labelled_images_from_elsewhere_are_evaluated(results, tmp_path):
    classes = result_store.read_results(results.folder).manifest["data"]["classes"]
    renamed = {f"{name} there": name for name in classes}
    write_image_folder(tmp_path / "site", classes=tuple(renamed), count=3)
    table = results.evaluate(tmp_path / "site", "site-b", class_map=renamed)
    assert table["external_set"].tolist() == ["site-b"]
    assert {"key", "score_home", "score_away", "score_away_low", "change"} <= set(table.columns)
    assert results.table["key"].tolist() == table["key"].tolist()
    with pytest.raises(bioimg.UserError, match=r"evaluate.*'mapping'"):
        results.evaluate(tmp_path / "site", "site-c", mapping={})


def test_notebooks_show_headline_and_table(results):
    shown = results._repr_html_()
    assert "<table" in shown
    assert "Best by validation" in shown


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"weigths": "none"}, "there is no setting `weigths`. Did you mean 'weights'?"),
        ({"batch_size": "32"}, "the value of `batch_size` is '32', but must be of type int"),
        ({"seed": True}, "the value of `seed` is True, but must be of type int"),
        ({"epochs": 0}, "the value of `epochs` is 0, but must be `epochs >= 1`"),
        ({"keep": "some"}, "the value of `keep` is 'some', but must be one of: best, all, none"),
        ({"data": "nowhere/"}, "the value of `data` is 'nowhere/', but there is no such folder"),
    ],
)
def test_mistakes_are_user_errors(fields, message, tmp_path):
    with pytest.raises(bioimg.UserError) as error:
        bioimg.compare(**{"local": True, "out": tmp_path / "out", **fields})
    assert message in str(error.value)
    assert not (tmp_path / "out").exists()


def test_unknown_report_option_is_refused(results):
    with pytest.raises(bioimg.UserError, match="Did you mean 'columns'"):
        results.report(column="freeze")


def test_folder_without_results_is_refused(tmp_path):
    with pytest.raises(bioimg.UserError, match="isn't a folder of results"):
        bioimg.read_results(tmp_path)


@pytest.mark.parametrize(
    ("settings", "flags"),
    [
        ({}, ""),
        ({"weights": ["none", "TEXTURES_V1"]}, "--weights none TEXTURES_V1"),
        ({"weights": "none", "seed": range(3)}, "--weights none --seed 0 1 2"),
        ({"folds": 3}, "--folds 3"),
        ({"folds": 3, "fold": 0}, "--folds 3 --fold 0"),
        ({"early_stopping": False, "lanes": 2}, "--no-early-stopping --lanes 2"),
        ({"grace_period": 2, "metric": "val_loss"}, "--grace-period 2 --metric val_loss"),
        ({"tune": [], "compare_within": "seed"}, "--tune --compare-within seed"),
        ({"tune": "weight_decay", "tune_seeds": 1}, "--tune weight_decay --tune-seeds 1"),
        ({"aggregate": "vote"}, "--aggregate vote"),
        ({"finish": []}, "--finish"),
        ({"epochs": "auto", "patience": 5}, "--epochs auto --patience 5"),
        (
            {"learning_rate": 1, "tf32": True, "report": False},
            "--learning-rate 1 --tf32 --no-report",
        ),
    ],
)
def test_settings_mean_what_flags_mean(settings, flags):
    from_flags = grid_flags.parse_experiment_flags(
        demo(), flags.split(), program="grid.py", description=""
    )
    assert apply_settings(demo(), settings) == from_flags


def test_auto_epochs_are_a_ceiling_and_patience_on_the_score_for_every_trial():
    experiment, _ = apply_settings(demo(), {"epochs": "auto"})
    for trial in experiment.trials():
        assert (trial.epochs, trial.patience, trial.patience_metric) == (200, 20, "val_score")
    by_user, _ = apply_settings(demo(), {"epochs": "auto", "patience": [5, 10]})
    assert {trial.patience for trial in by_user.trials()} == {5, 10}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": ["auto", 50]}, r"`epochs` is \('auto', 50\), but 'auto' must be the only one"),
        (
            {"epochs": "auto", "schedule": "cosine"},
            "`epochs` is 'auto', but must be a number with `schedule` 'cosine'",
        ),
        ({"epochs": "automatic"}, "`epochs` is 'automatic', but must be of type int"),
    ],
)
def test_auto_epochs_that_would_not_be_one_rule_are_refused(settings, message):
    with pytest.raises(bioimg.UserError, match=message):
        apply_settings(demo(), settings)


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore")
def test_comparison_runs_in_a_jupyter_kernel(tmp_path):
    cells = [
        f"import sys; sys.path.insert(0, {str(PROJECT)!r})\nimport bioimg",
        "results = bioimg.compare(weights='TEXTURES_V2', batch_size=64, freeze='features', "
        "epochs=1, local=True, report=False)",
        "results",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, timeout=200, resources={"metadata": {"path": str(tmp_path)}}).execute()
    (shown,) = notebook.cells[-1].outputs
    assert "<table" in shown["data"]["text/html"]
    assert (tmp_path / "results" / "demo" / "trials.parquet").exists()
