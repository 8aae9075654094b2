"""Early stopping over the life of a results folder: what was stopped, and how it is finished."""

import dataclasses
import io
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from bioimg import runner
from bioimg.errors import UserError
from bioimg.experiment import EarlyStopping, Experiment
from bioimg.results.result_store import Results, ResultStore, read_results
from bioimg.run_options import RunOptions
from support.consoles import Interrupted, InterruptingConsole
from support.experiments import LENIENT_ALPHA, STOPPING_RATES, stopping_experiment
from support.results import assert_same_results, stopped_keys


def run(
    folder: Path, asked: Experiment, console: io.StringIO | None = None, **settings: Any
) -> Results:
    assert (
        runner.run_experiment(
            asked,
            RunOptions(out=str(folder), local=True, report=False, **settings),
            Console(file=console or io.StringIO()),
        )
        == 0
    )
    return read_results(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where the grid was run in one go."""
    run(path := tmp_path_factory.mktemp("whole") / "out", stopping_experiment())
    return path


@pytest.fixture(scope="module")
def whole(folder) -> Results:
    """The grid run in one go: some are stopped."""
    results = read_results(folder)
    assert 2 <= results.trials["status"].eq("stopped").sum() < len(STOPPING_RATES)
    return results


@pytest.fixture
def out(folder, tmp_path) -> Path:
    """A copy of the folder of that grid, to continue with."""
    return Path(shutil.copytree(folder, tmp_path / "out"))


@pytest.fixture(scope="module")
def unstopped(tmp_path_factory) -> Results:
    """The grid with every trial run to its end."""
    return run(
        tmp_path_factory.mktemp("unstopped") / "out",
        dataclasses.replace(stopping_experiment(), early_stopping=None),
    )


def test_a_stopped_row_says_against_whom_it_lost_and_by_how_many_images(whole):
    epochs = whole.epochs.set_index(["key", "epoch"]).sort_index()
    val_images = whole.trials["val_images"][0]

    def best_epoch(key: str, rung: int) -> pd.Series:
        until_rung = epochs.loc[key].loc[:rung]
        return until_rung.loc[until_rung["val_score"].idxmax()]

    for row in whole.trials[whole.trials["status"] == "stopped"].to_dict("records"):
        rung = row["stopped_at_rung"]
        assert rung == row["epochs_run"] == row["lost_to_epochs"]
        own, other = best_epoch(row["key"], rung), best_epoch(row["lost_to"], rung)
        assert row["rung_score"] == own["val_score"] < other["val_score"] == row["lost_to_score"]
        correct = {
            name: np.unpackbits(np.frombuffer(epoch["val_correct"], np.uint8), count=val_images)
            for name, epoch in (("own", own), ("other", other))
        }
        assert correct["own"].mean() == pytest.approx(own["val_score"])
        assert row["lost_images"] == (correct["other"] > correct["own"]).sum()
        assert row["won_images"] == (correct["own"] > correct["other"]).sum()
        assert 0 < row["lost_p"] <= LENIENT_ALPHA
    assert whole.trials.loc[whole.trials["status"] == "completed", "lost_to"].isna().all()


@pytest.mark.nightly
def test_trials_that_are_added_later_are_judged_against_all_earlier_ones(whole, tmp_path):
    in_order = [
        trial.learning_rate
        for trial in stopping_experiment().in_run_order(stopping_experiment().trials())
    ]
    run(tmp_path / "out", stopping_experiment(tuple(in_order[:3])))
    assert_same_results(run(tmp_path / "out", stopping_experiment()), whole)


@pytest.mark.parametrize(
    ("text", "times"),
    [
        ("epoch 1/4", 3),
        pytest.param("epoch 3/4", 1, marks=pytest.mark.nightly),
        pytest.param("stopped", 1, marks=pytest.mark.nightly),
    ],
)
def test_an_interrupted_grid_stops_the_same_trials_when_it_goes_on(whole, tmp_path, text, times):
    with pytest.raises(Interrupted):
        run(tmp_path / "out", stopping_experiment(), InterruptingConsole(text, times))
    assert_same_results(run(tmp_path / "out", stopping_experiment()), whole)


def test_finish_takes_stopped_trials_to_the_end_that_they_would_have_come_to(out, unstopped):
    finished = run(out, stopping_experiment(), finish=())
    assert finished.trials["status"].eq("completed").all()
    assert_same_results(finished, unstopped)


@pytest.mark.nightly
def test_finish_takes_only_the_trial_whose_key_it_is_given(whole, out):
    before = whole.trials.set_index("key")["status"]
    key = before.index[before == "stopped"][0]
    after = run(out, stopping_experiment(), finish=(key,)).trials.set_index("key")["status"]
    assert after[key] == "completed"
    assert after.drop(key).equals(before.drop(key))


@pytest.mark.nightly
def test_a_trial_without_patience_left_is_complete_and_says_so(tmp_path):
    impatient = stopping_experiment((1e-9,), epochs=6, patience=2)
    results = run(tmp_path / "out", dataclasses.replace(impatient, early_stopping=None))
    (row,), losses = results.trials.to_dict("records"), results.epochs["val_loss"].tolist()
    best = losses.index(min(losses)) + 1
    assert row["status"] == "completed"
    assert row["epochs_run"] == len(losses) == min(best + 2, 6)
    assert row["out_of_patience"] == (best + 2 <= 6)
    assert row["test_accuracy"] >= 0


@pytest.mark.nightly
def test_patience_that_ran_out_before_an_interruption_is_not_given_again(tmp_path):
    impatient = dataclasses.replace(
        stopping_experiment((1e-1,), epochs=30, patience=1), early_stopping=None
    )
    length = run(tmp_path / "whole", impatient).trials["epochs_run"][0]
    assert length < 30
    with pytest.raises(Interrupted):
        run(tmp_path / "out", impatient, InterruptingConsole(f"epoch {length}/30", 1))
    assert_same_results(run(tmp_path / "out", impatient), read_results(tmp_path / "whole"))


def test_a_key_that_no_stopped_trial_has_is_refused_before_anything_runs(tmp_path):
    with pytest.raises(
        UserError,
        match=r"the value of `finish` is 'abc', but no trial of this command has been stopped\.",
    ):
        run(tmp_path / "out", stopping_experiment(), finish=("abc",))
    trials = stopping_experiment().trials()
    stopped = {trials[0].key: "stopped"}
    with pytest.raises(
        UserError, match=rf"one of: {trials[0].key}\..*without a key, --finish takes them all"
    ):
        runner.check_finish_keys(("abc",), trials, stopped)


@pytest.mark.nightly
def test_without_early_stopping_no_trial_stays_stopped_by_an_earlier_run(out, unstopped):
    assert_same_results(
        run(out, dataclasses.replace(stopping_experiment(), early_stopping=None)), unstopped
    )


@pytest.mark.nightly
def test_an_interrupted_finish_is_gone_on_with_by_the_same_command(whole, unstopped, out):
    keys = tuple(stopped_keys(whole)[:2])
    with pytest.raises(Interrupted):  # the first one is complete by then, the second isn't
        run(out, stopping_experiment(), InterruptingConsole("epoch 4/4", 2), finish=keys)
    assert ResultStore(out).tables.trial_statuses()[keys[0]] == "completed"
    finished = run(out, stopping_experiment(), finish=keys)
    assert stopped_keys(finished) == stopped_keys(whole)[2:]
    assert_same_results(only(finished, keys), only(unstopped, keys))


def only(results: Results, keys: Sequence[str]) -> Results:
    """What some trials have in the tables."""
    tables = {name: getattr(results, name) for name in ("trials", "epochs", "predictions")}
    return dataclasses.replace(
        results, **{name: table[table["key"].isin(keys)] for name, table in tables.items()}
    )


@pytest.mark.nightly
def test_what_an_interrupted_finish_began_is_finished_by_any_later_run(whole, unstopped, out):
    key, *others = stopped_keys(whole)
    with pytest.raises(Interrupted):
        run(out, stopping_experiment(), InterruptingConsole("epoch 3/4", 1), finish=(key,))
    again = run(out, stopping_experiment())
    assert stopped_keys(again) == others
    assert_same_results(only(again, [key]), only(unstopped, [key]))
    assert again.trials.set_index("key")["bytes"][key] == sum(
        ResultStore(out).storage.sizes(f"checkpoints/{key}").values()
    )


@pytest.mark.nightly
def test_a_key_of_a_trial_that_this_command_does_not_have_is_refused(whole, out):
    key = stopped_keys(whole)[0]
    others = tuple(
        trial.learning_rate for trial in stopping_experiment().trials() if trial.key != key
    )
    with pytest.raises(
        UserError,
        match=f"the value of `finish` is '{key}'.*These trials of this command are stopped",
    ):
        run(out, stopping_experiment(others), finish=(key,))


def test_finishing_a_trial_leaves_no_other_cohort_without_a_whole_row(tmp_path):
    rates, rule = (1e-3, 1e-9), EarlyStopping(grace_period=1, compare_within=("batch_size",))
    axes = {"batch_size": (32, 64), "learning_rate": rates}
    asked = dataclasses.replace(stopping_experiment(), axes=axes, early_stopping=rule)
    store = ResultStore(tmp_path)
    for trial in asked.trials():
        winner = "completed" if trial.batch_size == 32 else "failed"
        status = winner if trial.learning_rate == 1e-3 else "stopped"
        row = {
            "key": trial.key,
            "status": status,
            "epochs_run": 1,
            "stopped_at_rung": 1,
            "rung_metric": "val_score",
            "rung_score": 0.5,
        }
        store.tables.write("trials", trial.key, [row])
    named = next(
        trial for trial in asked.trials() if trial.batch_size == 32 and trial.learning_rate == 1e-9
    )
    both = runner.select_trials_to_finish(asked, asked.trials(), store, (named.key,))
    assert [trial.batch_size for trial in both] == [32, 64]


def test_when_a_trial_runs_again_nothing_of_its_earlier_end_is_left_for_a_merge_to_delete(
    tmp_path, monkeypatch
):
    # what is deleted after a merge could be what a lane has just written
    asked = stopping_experiment((1e-3, 1e-9))
    store, (failed, stopped) = (
        ResultStore(tmp_path / "out"),
        [trial.key for trial in asked.trials()],
    )
    begin, seen = ResultStore.open_for_writing, []

    def left_by_an_earlier_run(store: ResultStore, *description: Any) -> None:
        begin(store, *description)
        store.tables.write("trials", failed, [{"key": failed, "status": "failed"}])
        store.tables.write(
            "trials", stopped, [{"key": stopped, "status": "stopped", "epochs_run": 1}]
        )

    def execute(
        experiment: Any, trials: Any, images: Any, store: ResultStore, watcher: Any
    ) -> None:
        seen.append(([trial.key for trial in trials], store.storage.names("internal/parts")))
        for trial in trials:
            store.tables.write("trials", trial.key, [{"key": trial.key, "status": "completed"}])
            store.tables.merge()
        if len(seen) == 2:
            raise UserError("the rows have no scores that could be shown")

    monkeypatch.setattr(ResultStore, "open_for_writing", left_by_an_earlier_run)
    monkeypatch.setattr(runner, "choose_executor", lambda *_: execute)
    with pytest.raises(UserError, match="no scores"):
        run(tmp_path / "out", asked, finish=())
    assert seen == [([failed], []), ([stopped], [])]
    assert set(store.tables.trial_statuses().values()) == {"completed"}


def test_no_other_run_can_begin_before_the_folder_says_that_this_one_is_complete(
    tmp_path, monkeypatch
):
    said, release = [], ResultStore.release

    def note(store: ResultStore) -> None:
        said.append(store.read_manifest()["complete"])
        release(store)

    monkeypatch.setattr(ResultStore, "release", note)
    run(tmp_path / "out", stopping_experiment((1e-3,), epochs=1))
    assert said == [True]
