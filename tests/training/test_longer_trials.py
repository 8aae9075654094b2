"""More epochs: a longer trial continues where a shorter one ended, with the rows of a full run."""

import dataclasses
import io
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from bioimg import local, runner
from bioimg.config import TrialConfig
from bioimg.experiment import EarlyStopping, Experiment
from bioimg.progress.console import ProgressTable
from bioimg.results.result_store import Results, ResultStore, read_results
from bioimg.training import checkpoint_files, checkpoints
from bioimg.training.save_schedule import SaveSchedule
from bioimg.training.trial_trainer import TrialTrainer
from support import example_results, toys
from support.experiments import LENIENT_ALPHA, grid_experiment, run_experiment
from support.results import assert_same_results

IMAGES = toys.images()
RUN_OPTIONS = ("keep", "finish", "local", "lanes")
RATES = (1e-2, 3e-2, 1e-9, 2e-9, 3e-9)
RULE = EarlyStopping(grace_period=1, alpha=LENIENT_ALPHA)
ORIGIN_COLUMNS = ["continued_from", "bytes"]
"""Columns that differ from a run from scratch: the origin, and the size of states kept once."""


def longer_experiment(epochs: int, rule: EarlyStopping | None = RULE, **base: Any) -> Experiment:
    axes = {"freeze": ("none", "features"), "learning_rate": RATES}
    return Experiment(
        name="longer", base=toys.trial(epochs=epochs, **base), axes=axes, early_stopping=rule
    )


def run(folder: Path, experiment: Experiment, keep: str = "best", finish: bool = False) -> Results:
    """Run what is missing, as `grid.py --local` does."""
    trials = experiment.trials()
    store = ResultStore(folder)
    description = example_results.describe_experiment(experiment.base, {}, IMAGES.classes)
    store.open_for_writing({**description, "name": "longer", "keep": keep})
    statuses = store.tables.trial_statuses()
    console = Console(file=io.StringIO())
    listener = ProgressTable(trials, experiment.axes, {}, console, "accuracy")
    datasets = {trial: toys.dataset(trial, IMAGES) for trial in trials}
    unstopped = dataclasses.replace(experiment, early_stopping=None)
    try:
        local.run_in_process(
            experiment,
            experiment.in_run_order(t for t in trials if t.key not in statuses),
            datasets,
            store,
            listener,
        )
        local.run_in_process(
            unstopped,
            runner.select_trials_to_finish(experiment, trials, store, () if finish else None),
            datasets,
            store,
            listener,
        )
        store.tables.merge([trial.key for trial in trials])
    finally:
        store.release()
    return read_results(folder)


def of_length(results: Results, epochs: int) -> Results:
    """Return the trials of one length, without the columns of their origin."""
    trials = results.trials[results.trials["epochs"].eq(epochs)].drop(columns=ORIGIN_COLUMNS)
    tables = {
        name: table[table["key"].isin(trials["key"])]
        for name, table in (("epochs", results.epochs), ("predictions", results.predictions))
    }
    return dataclasses.replace(results, trials=trials, **tables)


@pytest.fixture
def trained_epochs(monkeypatch) -> dict[str, list[int]]:
    """Record the epochs that are trained from here on, by trial."""
    epochs = defaultdict(list)
    start_epoch = TrialTrainer.start_epoch

    def record(trainer: TrialTrainer, epoch: int) -> None:
        epochs[trainer.trial.key].append(epoch)
        start_epoch(trainer, epoch)

    monkeypatch.setattr(TrialTrainer, "start_epoch", record)
    return epochs


def check_no_epoch_repeated(
    short: Results, long: Results, trained_epochs: dict[str, list[int]], epochs: int
) -> None:
    """Check that longer trials trained only new epochs and have the other epochs' seconds."""
    short_seconds = short.epochs.set_index(["key", "epoch"])["seconds"]
    long_seconds = long.epochs.set_index(["key", "epoch"])["seconds"]
    short_epochs = short.trials.set_index("key")["epochs_run"]
    for row in long.trials[long.trials["epochs"].eq(epochs)].to_dict("records"):
        inherited = short_epochs[row["continued_from"]] if pd.notna(row["continued_from"]) else 0
        assert trained_epochs.get(row["key"], []) == list(
            range(inherited + 1, row["epochs_run"] + 1)
        )
        for epoch in range(1, min(inherited, row["epochs_run"]) + 1):
            assert long_seconds[row["key"], epoch] == short_seconds[row["continued_from"], epoch]
        assert row["train_seconds"] == pytest.approx(long_seconds[row["key"]].sum())


@pytest.mark.parametrize("keep", ["best", pytest.param("all", marks=pytest.mark.nightly)])
def test_more_epochs_equal_run_from_scratch(keep, tmp_path, trained_epochs):
    short = run(tmp_path / "out", longer_experiment(3), keep)
    assert set(short.trials["status"]) == {"completed", "stopped"}
    trained_epochs.clear()
    long = run(tmp_path / "out", longer_experiment(6), keep)
    check_no_epoch_repeated(short, long, trained_epochs, 6)
    assert_same_results(
        of_length(long, 6), of_length(run(tmp_path / "scratch", longer_experiment(6), keep), 6)
    )
    rows = long.trials[long.trials["epochs"].eq(6)]
    kept = (
        (rows["freeze"] == "features")
        | short.trials["status"].eq("stopped").to_numpy()
        | (keep == "all")
    )
    assert rows["continued_from"].notna().tolist() == kept.tolist()
    assert short.trials["continued_from"].isna().all()


@pytest.mark.nightly
def test_longer_trial_stopped_in_inherited_epochs_can_finish(tmp_path, trained_epochs):
    short = run(tmp_path / "out", longer_experiment(4, None), "all")
    trained_epochs.clear()
    long = run(tmp_path / "out", longer_experiment(6), "all")
    early = long.trials[long.trials["status"].eq("stopped") & (long.trials["epochs_run"] < 4)]
    assert len(early) >= 1
    assert (early["bytes"] == 0).all(), "the shorter trial has the state to finish from"
    check_no_epoch_repeated(short, long, trained_epochs, 6)
    assert_same_results(
        of_length(long, 6), of_length(run(tmp_path / "scratch", longer_experiment(6), "all"), 6)
    )
    trained_epochs.clear()
    finished = run(tmp_path / "out", longer_experiment(6), "all", finish=True)
    assert all(trained_epochs[key] == [5, 6] for key in early["key"])
    assert_same_results(
        of_length(finished, 6),
        of_length(run(tmp_path / "none", longer_experiment(6, None), "all"), 6),
    )


@pytest.mark.nightly
def test_exhausted_patience_is_inherited(tmp_path, trained_epochs):
    short = run(tmp_path / "out", longer_experiment(6, None, patience=1), "all")
    assert short.trials["out_of_patience"].any()
    trained_epochs.clear()
    long = run(tmp_path / "out", longer_experiment(9, None, patience=1), "all")
    check_no_epoch_repeated(short, long, trained_epochs, 9)
    assert_same_results(
        of_length(long, 9),
        of_length(run(tmp_path / "scratch", longer_experiment(9, None, patience=1), "all"), 9),
    )


@pytest.mark.nightly
def test_interrupted_longer_trial_keeps_its_origin(tmp_path, trained_epochs, monkeypatch):
    run(tmp_path / "out", longer_experiment(3), "all")
    save, states = checkpoints.save_state, []

    def interrupted(*state: Any) -> None:
        save(*state)
        states.append(state)
        if len(states) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save_state", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "out", longer_experiment(6), "all")
    long = run(tmp_path / "out", longer_experiment(6), "all")
    assert long.trials[long.trials["epochs"].eq(6)]["continued_from"].notna().all()
    assert_same_results(
        of_length(long, 6), of_length(run(tmp_path / "scratch", longer_experiment(6), "all"), 6)
    )


def test_longer_cosine_trial_starts_from_epoch_one(tmp_path, trained_epochs):
    run(tmp_path / "out", longer_experiment(2, None, schedule="cosine"), "all")
    trained_epochs.clear()
    long = run(tmp_path / "out", longer_experiment(3, None, schedule="cosine"), "all")
    assert long.trials["continued_from"].isna().all()
    assert all(epochs == [1, 2, 3] for epochs in trained_epochs.values())


def test_damaged_inherited_state_falls_back_with_warning(
    tmp_path, trained_epochs, caplog, monkeypatch
):
    monkeypatch.setattr(SaveSchedule, "is_due", lambda schedule, now: True)
    trial = toys.trial(epochs=4)
    single = Experiment(name="longer", base=trial, early_stopping=None)
    run(tmp_path / "out", single, "all")
    path = tmp_path / "out" / "checkpoints" / trial.key / "resume.alternate.pt"
    path.write_bytes(path.read_bytes()[:-50])
    trained_epochs.clear()
    longer = dataclasses.replace(single, base=toys.trial(epochs=5))
    long = run(tmp_path / "out", longer, "all")
    assert "resume.alternate.pt is damaged" in caplog.text
    assert trained_epochs[longer.base.key] == [4, 5]
    assert_same_results(of_length(long, 5), of_length(run(tmp_path / "scratch", longer, "all"), 5))


def test_longest_shorter_trial_is_inherited():
    trial = toys.trial(epochs=4)
    assert list(checkpoint_files.shorter_trial_keys(trial)) == [
        toys.trial(epochs=epochs).key for epochs in (3, 2, 1)
    ]
    assert not list(checkpoint_files.shorter_trial_keys(toys.trial(epochs=4, schedule="cosine")))


def test_trials_without_inherited_state_are_counted(tmp_path):
    run(tmp_path / "best", longer_experiment(2, None))
    run(tmp_path / "all", longer_experiment(2, None), "all")
    longer: list[TrialConfig] = longer_experiment(3, None).trials()
    stores = {keep: ResultStore(tmp_path / keep) for keep in ("best", "all")}
    count = {
        keep: runner.count_restarted_trials(longer, store, store.tables.trial_statuses())
        for keep, store in stores.items()
    }
    assert count == {"best": len(RATES), "all": 0}


def grid(
    folder: Path,
    rule: EarlyStopping | None = None,
    output: io.StringIO | None = None,
    **fields: Any,
) -> Results:
    """Run a grid around BASE_TRIAL, with options of the run among the fields."""
    options = {name: fields.pop(name) for name in RUN_OPTIONS if name in fields}
    return run_experiment(grid_experiment(rule, **fields), folder, output, **options)


def split_by_value(results: Results, field: str, values: tuple[Any, Any]) -> list[Results]:
    """Return the trials with either value of a field, their keys replaced by their `freeze`."""
    parts = []
    for value in values:
        trials = results.trials[
            results.trials[field].eq(value) & results.trials["epochs"].eq(3)
        ].drop(columns=[*ORIGIN_COLUMNS, field])
        keys = trials.set_index("key")["freeze"]
        tables = {
            name: table[table["key"].isin(keys.index)].assign(
                key=lambda rows, keys=keys: rows["key"].map(keys)
            )
            for name, table in (
                ("trials", trials),
                ("epochs", results.epochs),
                ("predictions", results.predictions),
            )
        }
        parts.append(dataclasses.replace(results, **tables))
    return parts


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore")
def test_two_workers_continue_from_shorter_trial(shared_ray, tmp_path):
    """Patience that doesn't run out changes no number, but no shorter trial has it."""
    fields = {"workers": 2, "keep": "all", "freeze": ("none", "features")}
    short = grid(tmp_path, epochs=1, **fields)
    long = grid(tmp_path, epochs=3, patience=(0, 9), **fields)
    origins = long.trials.set_index(["epochs", "patience", "freeze"])["continued_from"]
    assert origins[3, 0].tolist() == short.trials["key"].tolist()
    assert origins[3, 9].isna().all()
    assert_same_results(*split_by_value(long, "patience", (0, 9)))


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore")
def test_lane_finishes_stopped_trials_without_state(shared_ray, tmp_path):
    fields = {"epochs": 3, "learning_rate": (1e-3, 1e-9, 2e-9), "seed": (4, 7)}
    before = grid(tmp_path / "out", RULE, local=True, **fields).trials
    stopped = before.loc[before["status"] == "stopped", "key"]
    for key in stopped:
        shutil.rmtree(tmp_path / "out" / "checkpoints" / key)
    output = io.StringIO()
    finished = grid(tmp_path / "out", RULE, output, finish=(), lanes=1, **fields)
    assert output.getvalue().count("epoch 1/3") == len(stopped) >= 2
    assert_same_results(finished, grid(tmp_path / "whole", local=True, **fields))


def test_older_table_without_origin_reads_as_null(tmp_path):
    example_results.write_simulated_results(tmp_path)
    for name in ("trials", "internal/previous/trials"):
        path = tmp_path / f"{name}.parquet"
        if path.exists():
            pd.read_parquet(path).drop(columns="continued_from").to_parquet(path)
    assert read_results(tmp_path).trials["continued_from"].isna().all()
