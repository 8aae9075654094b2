"""More epochs: a longer trial begins where a shorter one ended, and its rows are those of one that began at its first epoch."""

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
from bioimg.run_options import RunOptions
from bioimg.training import checkpoints
from bioimg.training.trial_trainer import TrialTrainer
from support import simulated_results, toys
from support.experiments import BASE_TRIAL
from support.results import assert_same_results

IMAGES = toys.images()
RATES = (1e-2, 3e-2, 1e-9, 2e-9, 3e-9)
RULE = EarlyStopping(grace_period=1)
HOW = ["continued_from", "bytes"]
"""Columns of the trials table that tell the two ways apart: of trials that are stopped anew, no state is kept twice."""


def asked(epochs: int, rule: EarlyStopping | None = RULE, **base: Any) -> Experiment:
    axes = {"freeze": ("none", "features"), "learning_rate": RATES}
    return Experiment(
        name="longer", base=toys.trial(epochs=epochs, **base), axes=axes, early_stopping=rule
    )


def run(folder: Path, experiment: Experiment, keep: str = "best", finish: bool = False) -> Results:
    """Run what is missing, as `grid.py --local` does."""
    trials, store = experiment.trials(), ResultStore(folder)
    store.open_for_writing(
        {
            **simulated_results.description(experiment.base, {}, IMAGES.classes),
            "name": "longer",
            "keep": keep,
        }
    )
    statuses, watcher = (
        store.tables.trial_statuses(),
        ProgressTable(trials, experiment.axes, {}, Console(file=io.StringIO())),
    )
    images, unstopped = (
        {trial: toys.dataset(trial, IMAGES) for trial in trials},
        dataclasses.replace(experiment, early_stopping=None),
    )
    try:
        local.run_in_process(
            experiment,
            experiment.in_run_order(t for t in trials if t.key not in statuses),
            images,
            store,
            watcher,
        )
        local.run_in_process(
            unstopped,
            runner.select_trials_to_finish(experiment, trials, store, () if finish else None),
            images,
            store,
            watcher,
        )
        store.tables.merge([trial.key for trial in trials])
    finally:
        store.release()
    return read_results(folder)


def of_length(results: Results, epochs: int) -> Results:
    """The trials of one length, without the columns that say how they were trained."""
    trials = results.trials[results.trials["epochs"].eq(epochs)].drop(columns=HOW)
    tables = {
        name: table[table["key"].isin(trials["key"])]
        for name, table in (("epochs", results.epochs), ("predictions", results.predictions))
    }
    return dataclasses.replace(results, trials=trials, **tables)


@pytest.fixture
def trained(monkeypatch) -> dict[str, list[int]]:
    """The epochs that are trained from here on, by trial."""
    epochs, begin = defaultdict(list), TrialTrainer.start_epoch

    def note(self: TrialTrainer, epoch: int) -> None:
        epochs[self.trial.key].append(epoch)
        begin(self, epoch)

    monkeypatch.setattr(TrialTrainer, "start_epoch", note)
    return epochs


def check(short: Results, long: Results, trained: dict[str, list[int]], epochs: int) -> None:
    """No epoch of a shorter trial was trained again for a longer one, and each has the seconds that it took before."""
    took = short.epochs.set_index(["key", "epoch"])["seconds"]
    spent = long.epochs.set_index(["key", "epoch"])["seconds"]
    ran = short.trials.set_index("key")["epochs_run"]
    for row in long.trials[long.trials["epochs"].eq(epochs)].to_dict("records"):
        known = ran[row["continued_from"]] if pd.notna(row["continued_from"]) else 0
        assert trained.get(row["key"], []) == list(range(known + 1, row["epochs_run"] + 1))
        for epoch in range(1, min(known, row["epochs_run"]) + 1):
            assert spent[row["key"], epoch] == took[row["continued_from"], epoch]
        assert row["train_seconds"] == pytest.approx(spent[row["key"]].sum())


@pytest.mark.parametrize("keep", ["best", pytest.param("all", marks=pytest.mark.nightly)])
def test_more_epochs_give_the_rows_of_a_run_from_scratch_and_train_none_again(
    keep, tmp_path, trained
):
    short = run(tmp_path / "out", asked(3), keep)
    assert set(short.trials["status"]) == {"completed", "stopped"}
    trained.clear()
    long = run(tmp_path / "out", asked(6), keep)
    check(short, long, trained, 6)
    assert_same_results(of_length(long, 6), of_length(run(tmp_path / "scratch", asked(6), keep), 6))
    rows = long.trials[long.trials["epochs"].eq(6)]
    kept = (
        (rows["freeze"] == "features")
        | short.trials["status"].eq("stopped").to_numpy()
        | (keep == "all")
    )
    assert rows["continued_from"].notna().tolist() == kept.tolist()
    assert short.trials["continued_from"].isna().all()


@pytest.mark.nightly
def test_a_trial_that_falls_behind_in_epochs_it_was_given_is_stopped_there_and_can_be_finished(
    tmp_path, trained
):
    short = run(tmp_path / "out", asked(4, None), "all")
    trained.clear()
    long = run(tmp_path / "out", asked(6), "all")
    early = long.trials[long.trials["status"].eq("stopped") & (long.trials["epochs_run"] < 4)]
    assert len(early) >= 1
    assert (early["bytes"] == 0).all(), "the shorter trial has what they can be finished from"
    check(short, long, trained, 6)
    assert_same_results(
        of_length(long, 6), of_length(run(tmp_path / "scratch", asked(6), "all"), 6)
    )
    trained.clear()
    finished = run(tmp_path / "out", asked(6), "all", finish=True)
    assert all(trained[key] == [5, 6] for key in early["key"])
    assert_same_results(
        of_length(finished, 6), of_length(run(tmp_path / "none", asked(6, None), "all"), 6)
    )


@pytest.mark.nightly
def test_patience_that_ran_out_in_the_shorter_trial_has_run_out_in_the_longer_one(
    tmp_path, trained
):
    short = run(tmp_path / "out", asked(6, None, patience=1), "all")
    assert short.trials["out_of_patience"].any()
    trained.clear()
    long = run(tmp_path / "out", asked(9, None, patience=1), "all")
    check(short, long, trained, 9)
    assert_same_results(
        of_length(long, 9),
        of_length(run(tmp_path / "scratch", asked(9, None, patience=1), "all"), 9),
    )


@pytest.mark.nightly
def test_a_longer_trial_that_was_interrupted_still_says_where_it_began(
    tmp_path, trained, monkeypatch
):
    run(tmp_path / "out", asked(3), "all")
    save, saved = checkpoints.save_state, []

    def interrupted(*state: Any) -> None:
        save(*state)
        saved.append(state)
        if len(saved) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save_state", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "out", asked(6), "all")
    long = run(tmp_path / "out", asked(6), "all")
    assert long.trials[long.trials["epochs"].eq(6)]["continued_from"].notna().all()
    assert_same_results(
        of_length(long, 6), of_length(run(tmp_path / "scratch", asked(6), "all"), 6)
    )


def test_with_a_cosine_a_longer_trial_begins_at_its_first_epoch(tmp_path, trained):
    run(tmp_path / "out", asked(2, None, schedule="cosine"), "all")
    trained.clear()
    long = run(tmp_path / "out", asked(3, None, schedule="cosine"), "all")
    assert long.trials["continued_from"].isna().all()
    assert all(epochs == [1, 2, 3] for epochs in trained.values())


def test_a_damaged_state_of_the_shorter_trial_is_told_and_the_one_before_it_is_used(
    tmp_path, trained, caplog
):
    trial = toys.trial(epochs=4)
    single = Experiment(name="longer", base=trial, early_stopping=None)
    run(tmp_path / "out", single, "all")
    path = tmp_path / "out" / "checkpoints" / trial.key / "resume.pt"
    path.write_bytes(path.read_bytes()[:-50])
    trained.clear()
    longer = dataclasses.replace(single, base=toys.trial(epochs=5))
    long = run(tmp_path / "out", longer, "all")
    assert "resume.pt is damaged" in caplog.text
    assert trained[longer.base.key] == [4, 5]
    assert_same_results(of_length(long, 5), of_length(run(tmp_path / "scratch", longer, "all"), 5))


def test_the_longest_of_shorter_trials_is_the_one_to_go_on_from():
    trial = toys.trial(epochs=4)
    assert list(checkpoints.shorter_trial_keys(trial)) == [
        toys.trial(epochs=epochs).key for epochs in (3, 2, 1)
    ]
    assert not list(checkpoints.shorter_trial_keys(toys.trial(epochs=4, schedule="cosine")))


def test_trials_of_which_no_state_was_kept_are_counted(tmp_path):
    run(tmp_path / "best", asked(2, None))
    run(tmp_path / "all", asked(2, None), "all")
    longer: list[TrialConfig] = asked(3, None).trials()
    stores = {keep: ResultStore(tmp_path / keep) for keep in ("best", "all")}
    count = {
        keep: runner.count_restarted_trials(longer, store, store.tables.trial_statuses())
        for keep, store in stores.items()
    }
    assert count == {"best": len(RATES), "all": 0}


def grid(
    folder: Path, rule: EarlyStopping | None = None, file: io.StringIO | None = None, **fields: Any
) -> Results:
    """Run a grid around BASE as `grid.py` does, settings among the fields."""
    given = {
        name: fields.pop(name) for name in ("keep", "finish", "local", "lanes") if name in fields
    }
    axes = {name: value for name, value in fields.items() if isinstance(value, tuple)}
    base = dataclasses.replace(
        BASE_TRIAL, **{name: value for name, value in fields.items() if name not in axes}
    )
    asked = Experiment(name="longer", base=base, axes=axes, early_stopping=rule)
    assert (
        runner.run_experiment(
            asked,
            RunOptions(out=str(folder), report=False, **given),
            Console(file=file or io.StringIO()),
        )
        == 0
    )
    return read_results(folder)


def halves(results: Results, field: str, values: tuple[Any, Any]) -> list[Results]:
    """The trials with either value of a field, their keys replaced by their `freeze`."""
    parts = []
    for value in values:
        trials = results.trials[
            results.trials[field].eq(value) & results.trials["epochs"].eq(3)
        ].drop(columns=[*HOW, field])
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


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore")
def test_two_workers_go_on_together_from_the_shorter_trial(shared_ray, tmp_path):
    """Patience that doesn't run out changes no number, but there is no shorter trial with it to continue from."""
    fields = {"workers": 2, "keep": "all", "freeze": ("none", "features")}
    short = grid(tmp_path, epochs=1, **fields)
    long = grid(tmp_path, epochs=3, patience=(0, 9), **fields)
    began = long.trials.set_index(["epochs", "patience", "freeze"])["continued_from"]
    assert began[3, 0].tolist() == short.trials["key"].tolist()
    assert began[3, 9].isna().all()
    assert_same_results(*halves(long, "patience", (0, 9)))


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore")
def test_a_lane_finishes_stopped_trials_that_have_no_state_any_more(shared_ray, tmp_path):
    fields = {"epochs": 3, "learning_rate": (1e-3, 1e-9, 2e-9), "seed": (4, 7)}
    before = grid(tmp_path / "out", RULE, local=True, **fields).trials
    stopped = before.loc[before["status"] == "stopped", "key"]
    for key in stopped:
        shutil.rmtree(tmp_path / "out" / "checkpoints" / key)
    file = io.StringIO()
    finished = grid(tmp_path / "out", RULE, file, finish=(), lanes=1, **fields)
    assert file.getvalue().count("epoch 1/3") == len(stopped) >= 2
    assert_same_results(finished, grid(tmp_path / "whole", local=True, **fields))


def test_a_table_of_an_earlier_version_has_no_such_column_and_reads_as_null(tmp_path):
    simulated_results.write(tmp_path)
    for name in ("trials", "internal/previous/trials"):
        path = tmp_path / f"{name}.parquet"
        if path.exists():
            pd.read_parquet(path).drop(columns="continued_from").to_parquet(path)
    assert read_results(tmp_path).trials["continued_from"].isna().all()
