"""Curves for TensorBoard, and the trackers MLflow and Weights & Biases."""

import importlib.util
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
import wandb
from mlflow import MlflowClient
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bioimg import runner
from bioimg.config import TrialConfig
from bioimg.errors import StorageError, UserError
from bioimg.experiment import Experiment
from bioimg.progress import trackers
from bioimg.progress.tensorboard import TensorBoardListener
from bioimg.results.result_store import read_results
from bioimg.run_options import RunOptions

EXPERIMENT = Experiment(
    name="tracked",
    base=TrialConfig(
        model="resnext_tiny",
        weights="none",
        image_size=32,
        batch_size=64,
        epochs=2,
        freeze="features",
    ),
    axes={"learning_rate": (1e-3, 1e-2)},
    early_stopping=None,
)


def run(folder: Path, **settings: object) -> None:
    assert (
        runner.run_experiment(
            EXPERIMENT, RunOptions(out=str(folder), **settings), Console(file=io.StringIO())
        )
        == 0
    )  # type: ignore[arg-type]


def test_tensorboard_curves_equal_the_table(tmp_path):
    run(tmp_path / "out", local=True)
    epochs = read_results(tmp_path / "out").epochs
    for trial in EXPERIMENT.trials():
        (folder,) = (tmp_path / "out" / "tensorboard").glob(f"*{trial.key}")
        assert folder.name.startswith(f"learning_rate={trial.learning_rate}")
        written = EventAccumulator(str(folder)).Reload().Scalars("val_loss")
        rows = epochs[epochs["key"] == trial.key]
        assert [(point.step, pytest.approx(point.value)) for point in written] == list(
            zip(rows["epoch"], rows["val_loss"], strict=True)
        )


def test_weights_path_makes_no_deeper_folder(tmp_path):
    trial = TrialConfig(weights="../weights/my net.pth")
    listener = TensorBoardListener(str(tmp_path), [trial], ["weights"], "accuracy")
    scores = dict.fromkeys(("train_loss", "train_accuracy", "val_loss", "val_score"), 0.5)
    listener.on_epoch(trial.key, {"epoch": 1, **scores})
    listener.on_trial_end(trial.key, "completed")
    assert [path.name for path in tmp_path.iterdir()] == [
        f"weights=.._weights_my_net.pth-{trial.key}"
    ]


def test_unwritable_tensorboard_error_has_the_way_out(tmp_path):
    (tmp_path / "curves").write_text("a file where a folder should be")
    trial = TrialConfig()
    with pytest.raises(
        StorageError, match=r"curves.* can't be written: .* run the same command again"
    ):
        TensorBoardListener(str(tmp_path / "curves"), [trial], [], "accuracy").on_epoch(
            trial.key, {"epoch": 1}
        )


def test_missing_tracker_is_named_before_anything_starts(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"`track` is 'wandb'.*pip install '\.\[wandb\]'"):
        trackers.check_trackers_installed(["wandb"])


@pytest.fixture
def offline_trackers(tmp_path, monkeypatch) -> Iterator[None]:
    """Let both trackers write to files of this test."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlflow").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    yield
    wandb.teardown()  # it would keep this folder for the whole process


@pytest.mark.usefixtures("offline_trackers")
@pytest.mark.parametrize(
    "local",
    [
        True,
        pytest.param(
            False, marks=[pytest.mark.nightly, pytest.mark.filterwarnings("ignore")], id="lanes"
        ),
    ],
)
def test_trackers_receive_every_epoch(local, tmp_path):
    run(tmp_path / "out", local=local, track=("mlflow", "wandb"))

    client, epochs = MlflowClient(), read_results(tmp_path / "out").epochs
    (experiment,) = client.search_experiments(filter_string="name = 'tracked'")
    mlflow_runs = client.search_runs([experiment.experiment_id])
    assert {mlflow_run.info.run_name for mlflow_run in mlflow_runs} == set(epochs["key"])
    for mlflow_run in mlflow_runs:
        history = client.get_metric_history(mlflow_run.info.run_id, "val_loss")
        rows = epochs[epochs["key"] == mlflow_run.info.run_name]
        assert [point.step for point in history] == rows["epoch"].tolist()
        assert [point.value for point in history] == pytest.approx(rows["val_loss"].tolist())
        assert mlflow_run.data.params["learning_rate"] in ("0.001", "0.01")
        assert mlflow_run.data.tags["status"] == "completed"
        assert mlflow_run.info.status == "FINISHED"
    assert len(list(tmp_path.rglob("offline-run-*/*.wandb"))) == len(EXPERIMENT.trials())


@pytest.mark.usefixtures("offline_trackers")
def test_interrupted_session_ends_its_mlflow_runs(tmp_path):
    trial = EXPERIMENT.trials()[0]
    with trackers.open_trackers(["mlflow", "wandb"], "tracked", [trial], "accuracy") as listeners:
        for listener in listeners:
            listener.on_epoch(trial.key, {"epoch": 1, "val_score": 0.5})
    client = MlflowClient()
    (experiment,) = client.search_experiments(filter_string="name = 'tracked'")
    (mlflow_run,) = client.search_runs([experiment.experiment_id])
    assert mlflow_run.info.status == "KILLED"


def test_unreachable_tracker_error_has_the_way_out(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "file" / "mlflow").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    trial = EXPERIMENT.trials()[0]
    with (
        pytest.raises(UserError, match=r"`track` is 'mlflow'.*or leave out --track"),
        trackers.open_trackers(["mlflow"], "tracked", [trial], "accuracy"),
    ):
        pass
