"""`bioimg status` shows the progress of an experiment, from its folder alone."""

import dataclasses
import io
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from bioimg.cli import main
from bioimg.cli.status import read_status, seconds_left
from bioimg.config import TrialConfig
from bioimg.results.result_store import ResultStore
from support import example_results

BASE = TrialConfig(data="kather", epochs=10)
AXES = {"seed": (0, 1, 2, 3)}
TRIALS = [dataclasses.replace(BASE, seed=seed) for seed in AXES["seed"]]
EPOCH = {
    "train_loss": 1.0,
    "train_accuracy": 0.5,
    "val_loss": 1.0,
    "val_accuracy": 0.625,
    "seconds": 30.0,
}


@pytest.fixture
def store(tmp_path):
    """Write a run in progress.

    The first trial has ended, the second failed, the third is after epoch 4, the fourth waits.
    """
    store = ResultStore(tmp_path / "grid")
    store.open_for_writing(example_results.describe_experiment(BASE, AXES, ("a", "b")))
    for trial, status, epochs in zip(
        TRIALS, ("completed", "failed", None), (10, 1, 4), strict=False
    ):
        store.tables.write(
            "epochs",
            trial.key,
            [{"key": trial.key, "epoch": epoch + 1, **EPOCH} for epoch in range(epochs)],
        )
        if status:
            store.tables.write(
                "trials", trial.key, [{"key": trial.key, "status": status, "epochs_run": epochs}]
            )
    yield store
    store.release()


def shown(store: ResultStore) -> str:
    file = io.StringIO()
    console = Console(file=file, width=120)
    console.print(read_status(store, console).renderable)
    return file.getvalue()


@pytest.mark.parametrize("merged", [False, True])
def test_every_trial_is_shown_with_its_status_its_epoch_and_the_time_that_is_left(store, merged):
    if merged:
        store.tables.merge()
    rows = [line.split() for line in shown(store).splitlines()]
    assert rows[0] == ["seed", "status", "epoch", "val", "accuracy", "left"]
    assert rows[1:5] == [
        ["0", "completed", "10/10", "0.625"],
        ["1", "failed", "1/10", "0.625"],
        ["2", "running", "4/10", "0.625", "3:00"],
        ["3", "waiting"],
    ]
    assert "4 trials: 1 completed, 1 failed, 1 running, 1 waiting; about 0:08:00 left" in shown(
        store
    )
    assert "Running since 20" in shown(store)


def test_a_stopped_or_failed_trial_that_is_trained_further_runs(store):
    key = TRIALS[1].key
    store.tables.write(
        "epochs", key, [{"key": key, "epoch": epoch + 1, **EPOCH} for epoch in range(2)]
    )
    text = shown(store)
    assert ["1", "running", "2/10", "0.625", "4:00"] in [line.split() for line in text.splitlines()]
    assert "4 trials: 1 completed, 2 running, 1 waiting; about 0:06:00 left" in text


def test_a_trial_does_not_run_where_no_run_is(store):
    store.release()
    assert "1 completed, 1 failed, 2 waiting" in shown(store)
    assert "No run is active here. Repeat the original command to resume." in shown(store)


@pytest.mark.parametrize("version", [1, 7])
def test_results_of_another_format_are_refused(store, version, monkeypatch, capsys):
    change = {"format": version, "versions": {"bioimg": "9.0"}, "base": {"new": 1}}
    store.write_manifest({**store.read_manifest(), **change})
    monkeypatch.setattr(sys, "argv", ["bioimg", "status", store.display_name])
    assert main.main() == 2
    error = capsys.readouterr().err
    assert re.search(
        rf"the `format` of .*experiment\.json is {version}, but must be 2: .* "
        r"Use that version \(9\.0, ",
        error,
    )


def test_the_time_that_is_left_is_known_from_the_first_epoch_on():
    assert seconds_left(TRIALS, {trial.key: "waiting" for trial in TRIALS}, {}) is None


def test_frozen_trials_are_expected_to_take_as_long_as_frozen_ones():
    mixed = [
        dataclasses.replace(BASE, freeze=freeze, seed=seed)
        for freeze in ("none", "features")
        for seed in (0, 1)
    ]
    latest = {
        mixed[0].key: {"epoch": 10, "seconds": 60.0},
        mixed[2].key: {"epoch": 10, "seconds": 1.0},
    }
    statuses = dict(
        zip(
            [trial.key for trial in mixed],
            ["completed", "waiting", "completed", "waiting"],
            strict=True,
        )
    )
    assert seconds_left(mixed, statuses, latest) == 10 * 60 + 10 * 1


@pytest.mark.ray
def test_the_command_changes_nothing_and_needs_neither_ray_nor_torch(store, tmp_path):
    def files() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    before = files()
    code = (
        "import sys; from bioimg.cli.main import main;"
        "sys.argv = ['bioimg', 'status', sys.argv[1]]; code = main();"
        "sys.exit(code or len({'ray', 'torch'} & set(sys.modules)))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "grid")], capture_output=True, text=True
    )
    assert out.returncode == 0, out.stderr
    assert "4 trials" in out.stdout
    assert files() == before


def test_a_folder_that_is_not_there_is_said_not_to_be_there(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bioimg", "status", str(tmp_path / "lost")])
    assert main.main() == 2
    assert re.search(
        r"the value of `results` is '.*lost', but there is no such folder\. Name one",
        capsys.readouterr().err,
    )


def test_a_file_in_place_of_a_folder_is_said_not_to_be_one(tmp_path, monkeypatch, capsys):
    (tmp_path / "trials.parquet").write_text("")
    monkeypatch.setattr(sys, "argv", ["bioimg", "status", str(tmp_path / "trials.parquet")])
    assert main.main() == 2
    assert "trials.parquet', but there is no such folder" in capsys.readouterr().err


def test_a_folder_without_results_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bioimg", "status", str(tmp_path)])
    assert main.main() == 2
    assert (
        "isn't a folder of results: it lacks experiment.json. Name one that grid.py wrote."
        in capsys.readouterr().err
    )
