"""The files that a trial leaves, depending on how it ended and on --keep."""

import contextlib
import dataclasses
import json
from collections import defaultdict
from typing import Any

import pytest
import safetensors.torch
import torch

from bioimg.cluster import lane_worker
from bioimg.cluster.coordinator import Job
from bioimg.experiment import StopReason
from bioimg.results.epoch_summary import EpochMetrics
from bioimg.results.result_store import ResultStore
from bioimg.storage.filesystem import LocalStorage
from bioimg.training import checkpoint_files, checkpoints
from bioimg.training.loop import train
from bioimg.training.save_schedule import SaveSchedule
from bioimg.training.trial_runner import TrialContext, record_failure, run_trial
from bioimg.training.trial_trainer import TrialTrainer
from support import example_results, toys
from support.experiments import stop_reason

TRIAL = toys.trial(epochs=5)


def make_context(store: ResultStore) -> TrialContext:
    return TrialContext(experiment_name="toy", store=store, device=torch.device("cpu"))


def run_and_list_files(folder, keep: str, should_stop) -> tuple[set[str], int]:
    """Run a trial. Return the names of its files, and their size according to its row."""
    store = ResultStore(folder)
    store.open_for_writing(
        {**example_results.describe_experiment(TRIAL, {}, ("a", "b", "c")), "keep": keep}
    )
    run_trial(TRIAL, toys.dataset(TRIAL), make_context(store), should_stop)
    store.release()
    row = store.tables.trial_rows("trials", TRIAL.key)[0]
    files = {
        path.name: path.stat().st_size
        for path in (folder / "checkpoints").rglob("*")
        if path.is_file()
    }
    assert row["bytes"] == sum(files.values())
    return set(files), row["bytes"]


def save_after(epochs: set[int], patch: pytest.MonkeyPatch) -> None:
    """Let saving be due after these epochs of each trial, however long anything takes."""
    counts = defaultdict(int)

    def is_due(schedule: SaveSchedule, now: float) -> bool:
        counts[schedule] += 1
        return counts[schedule] in epochs

    patch.setattr(SaveSchedule, "is_due", is_due)


def used_bytes(store: ResultStore) -> int:
    """Return the bytes that the trial's files use."""
    return sum(store.storage.sizes(store.checkpoint_folder(TRIAL.key)).values())


def fail_after_epoch(epoch) -> bool:
    raise RuntimeError("failed")


@pytest.mark.parametrize(
    ("keep", "completed", "stopped"),
    [
        ("best", {"best.safetensors"}, {"resume.alternate.pt"}),
        ("none", set(), set()),
        (
            "all",
            {"best.safetensors", "resume.pt", "resume.alternate.pt"},
            {"best.safetensors", "resume.pt", "resume.alternate.pt"},
        ),
    ],
)
def test_kept_files_follow_keep_and_are_counted(keep, completed, stopped, tmp_path, monkeypatch):
    save_after({1}, monkeypatch)
    assert run_and_list_files(tmp_path / "completed", keep, lambda epoch: None)[0] == completed
    assert (
        run_and_list_files(
            tmp_path / "stopped",
            keep,
            lambda epoch: stop_reason(3) if epoch.epoch == 3 else None,
        )[0]
        == stopped
    )


def test_completed_frozen_trial_keeps_its_small_state(tmp_path, monkeypatch):
    save_after({1}, monkeypatch)
    store = ResultStore(tmp_path)
    context = make_context(store)
    trial = toys.trial(epochs=2, freeze="features")
    run_trial(trial, toys.dataset(trial), context, lambda epoch: None)
    names = {
        name.rpartition("/")[2] for name in store.storage.names(store.checkpoint_folder(trial.key))
    }
    assert names == {"best.safetensors", "resume.alternate.pt"}
    cosine = toys.trial(epochs=2, freeze="features", schedule="cosine")
    run_trial(cosine, toys.dataset(cosine), context, lambda epoch: None)
    assert store.storage.names(store.checkpoint_folder(cosine.key)) == [
        f"{store.checkpoint_folder(cosine.key)}/best.safetensors"
    ]


def test_failed_trial_keeps_its_state(tmp_path):
    assert run_and_list_files(tmp_path, "best", fail_after_epoch)[0] == {"resume.pt", "error.txt"}


class ProcessKilled(BaseException):
    """The end of a process, after which nothing is written to disk."""


def kill_before(store: ResultStore, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """End the process where it would write the row, or delete a file."""

    def kill(name: str) -> None:
        raise ProcessKilled

    write = store.tables.write

    def write_unless_trials(table: str, *args: Any) -> None:
        if table == "trials":
            raise ProcessKilled
        write(table, *args)

    if what == "delete":
        monkeypatch.setattr(store.storage, "delete", kill)
    else:
        monkeypatch.setattr(store.tables, "write", write_unless_trials)


def test_state_is_due_at_first_and_after_twenty_times_what_a_save_costs():
    schedule = SaveSchedule()
    assert schedule.is_due(now=100.0)
    schedule.record_save(started=100.0, ended=102.0)
    assert not schedule.is_due(now=142.0)
    assert schedule.is_due(now=142.1)
    schedule.record_save(started=143.0, ended=143.5)
    assert not schedule.is_due(now=153.5)
    assert schedule.is_due(now=153.6)


def trial_tables(store: ResultStore) -> list[list[dict[str, Any]]]:
    """Return the epochs and predictions of the trial, without times."""
    tables = []
    for name in ("epochs", "predictions"):
        rows = store.tables.trial_rows(name, TRIAL.key)
        tables.append([{**row, "seconds": None} for row in rows])
    return tables


@pytest.mark.parametrize("killed_at", [2, 3, 4, 5])
def test_killed_trial_repeats_what_came_after_its_saved_epoch(killed_at, tmp_path, monkeypatch):
    save_after({1, 3}, monkeypatch)
    dataset = toys.dataset(TRIAL)
    whole = ResultStore(tmp_path / "whole")
    run_trial(TRIAL, dataset, make_context(whole), lambda epoch: None)
    reported: list[EpochMetrics] = []

    def kill(epoch: EpochMetrics) -> None:
        if epoch.epoch == killed_at:
            raise ProcessKilled

    def note_epoch(epoch: EpochMetrics) -> None:
        recorded = store.tables.trial_rows("epochs", TRIAL.key)
        assert [row["epoch"] for row in recorded] == list(
            range(1, max(killed_at, epoch.epoch) + 1)
        ), "the table never loses an epoch, and has none twice"
        reported.append(epoch)

    with pytest.raises(ProcessKilled):
        run_trial(TRIAL, dataset, make_context(ResultStore(tmp_path / "cut")), kill)
    store = ResultStore(tmp_path / "cut")
    run_trial(TRIAL, dataset, make_context(store), note_epoch)
    saved = {2: 1, 3: 3, 4: 3, 5: 5}[killed_at]
    assert [epoch.epoch for epoch in reported] == list(range(saved, 6))
    assert trial_tables(store) == trial_tables(whole)


def test_trial_that_lost_epochs_and_its_worker_keeps_them_in_its_failed_row(tmp_path, monkeypatch):
    save_after({1}, monkeypatch)

    def kill(epoch: EpochMetrics) -> None:
        if epoch.epoch == 3:
            raise ProcessKilled

    context = make_context(ResultStore(tmp_path))
    with pytest.raises(ProcessKilled):
        run_trial(TRIAL, toys.dataset(TRIAL), context, kill)
    record_failure(TRIAL, toys.images(), context, RuntimeError("its worker was lost"))
    (row,) = context.store.tables.trial_rows("trials", TRIAL.key)
    assert (row["status"], row["epochs_run"]) == ("failed", 3)
    assert len(context.store.tables.trial_rows("epochs", TRIAL.key)) == 3


@pytest.mark.parametrize("keep", ["best", "none"])
@pytest.mark.parametrize("stop", [None, stop_reason(3)])
def test_trial_killed_before_its_row_is_not_retrained(keep, stop, tmp_path, monkeypatch):
    images = toys.images()
    trained_epochs = []
    start_epoch = TrialTrainer.start_epoch

    def note_epoch(trainer: TrialTrainer, epoch: int) -> None:
        trained_epochs.append(epoch)
        start_epoch(trainer, epoch)

    monkeypatch.setattr(TrialTrainer, "start_epoch", note_epoch)

    def should_stop(epoch: EpochMetrics) -> StopReason | None:
        return stop if stop and epoch.epoch == 3 else None

    store = ResultStore(tmp_path)
    store.open_for_writing(
        {**example_results.describe_experiment(TRIAL, {}, images.classes), "keep": keep}
    )
    store.release()
    with monkeypatch.context() as patch, contextlib.suppress(ProcessKilled):
        kill_before(store, "row", patch)
        run_trial(TRIAL, toys.dataset(TRIAL, images), make_context(store), should_stop)
    store = ResultStore(tmp_path)
    assert not store.tables.trial_statuses()
    run_trial(TRIAL, toys.dataset(TRIAL, images), make_context(store), should_stop)
    assert trained_epochs == list(range(1, (3 if stop else 5) + 1))
    assert store.tables.trial_rows("trials", TRIAL.key)[0]["bytes"] == used_bytes(store)


def test_trial_killed_after_its_row_is_not_retrained(tmp_path, monkeypatch):
    dataset = toys.dataset(TRIAL)
    context = make_context(ResultStore(tmp_path))
    lane: Any = None
    monkeypatch.setattr(lane_worker, "_get_dataset", lambda *_: dataset)
    monkeypatch.setattr(lane_worker, "run_trial", lambda *_: "trained")
    second_attempt = Job(TRIAL.key, TRIAL, attempts=2)
    assert lane_worker._run_job(second_attempt, context, lane) == "trained"
    run_trial(TRIAL, dataset, context, lambda epoch: None)
    assert lane_worker._run_job(second_attempt, context, lane) == "completed"


@pytest.mark.parametrize("keep", ["best", "none", "all"])
@pytest.mark.parametrize("stop", [None, stop_reason(3)])
def test_leftover_states_of_killed_trial_are_deleted(keep, stop, tmp_path, monkeypatch):
    images = toys.images()
    store = ResultStore(tmp_path)
    store.open_for_writing(
        {**example_results.describe_experiment(TRIAL, {}, images.classes), "keep": keep}
    )
    store.release()
    context = make_context(store)
    with monkeypatch.context() as patch, contextlib.suppress(ProcessKilled):
        kill_before(store, "delete", patch)
        dataset = toys.dataset(TRIAL, images)
        run_trial(TRIAL, dataset, context, lambda epoch: stop if epoch.epoch == 3 else None)
    row = store.tables.trial_rows("trials", TRIAL.key)[0]
    assert (used_bytes(store) > row["bytes"]) == (keep != "all")
    checkpoint_files.delete_leftover_states(store, [TRIAL])
    assert used_bytes(store) == row["bytes"]


@pytest.mark.parametrize("lost", ["the worker", "an exception"])
def test_failed_longer_trial_has_inherited_epochs(lost, tmp_path, monkeypatch):
    images = toys.images()
    store = ResultStore(tmp_path)
    store.open_for_writing(
        {**example_results.describe_experiment(TRIAL, {}, images.classes), "keep": "all"}
    )
    store.release()
    context = make_context(store)
    longer = toys.trial(epochs=7)
    run_trial(TRIAL, toys.dataset(TRIAL, images), context, lambda epoch: None)
    again = dataclasses.replace(context, store=ResultStore(tmp_path))

    def end(trainer: TrialTrainer, epoch: int) -> None:
        raise RuntimeError("failed") if lost == "an exception" else ProcessKilled

    monkeypatch.setattr(TrialTrainer, "start_epoch", end)
    with contextlib.suppress(ProcessKilled):
        run_trial(longer, toys.dataset(longer, images), again, lambda epoch: None)
    if lost == "the worker":
        record_failure(longer, images, again, RuntimeError("its worker was lost"))
    (row,) = again.store.tables.trial_rows("trials", longer.key)
    inherited = again.store.tables.trial_rows("epochs", TRIAL.key)
    assert (row["status"], row["epochs_run"], row["continued_from"]) == ("failed", 5, TRIAL.key)
    assert [epoch["val_loss"] for epoch in again.store.tables.trial_rows("epochs", longer.key)] == [
        epoch["val_loss"] for epoch in inherited
    ]


def test_trial_out_of_patience_at_a_rung_is_complete(tmp_path):
    trial = toys.trial(epochs=9, patience=1, learning_rate=1e-12)
    store = ResultStore(tmp_path)
    context = make_context(store)
    stop = stop_reason(2)
    run_trial(trial, toys.dataset(trial), context, lambda epoch: stop if epoch.epoch == 2 else None)
    row = store.tables.trial_rows("trials", trial.key)[0]
    assert (row["status"], row["epochs_run"], row["out_of_patience"]) == ("completed", 2, True)
    assert row["test_accuracy"] is not None
    assert row["stopped_at_rung"] is None


def test_best_weights_of_last_epoch_are_stored_once(tmp_path):
    storage = LocalStorage(tmp_path)
    config = toys.trial(model="resnext_tiny", image_size=32, epochs=1)
    trainer = toys.run(config)
    for _ in train(trainer):
        checkpoints.save_state(trainer, storage, "trial/resume.pt")
    weights = sum(tensor.nbytes for tensor in trainer.trained_module.state_dict().values())
    state_size = storage.size("trial/resume.pt")
    assert state_size is not None
    # AdamW keeps two more tensors for each tensor of weights
    assert state_size < 3.3 * weights
    resumed = toys.run(config)
    checkpoints.load_state(resumed, storage, "trial")
    for name, tensor in trainer.best_weights.items():
        assert torch.equal(resumed.best_weights[name], tensor)
    resumed.start_epoch(2)
    for parameter in resumed.trained_module.parameters():
        parameter.data.zero_()
    for name, tensor in trainer.best_weights.items():
        assert torch.equal(resumed.best_weights[name], tensor), "further training changed it"


def test_best_model_file_is_complete_and_described(tmp_path):
    run_and_list_files(tmp_path, "best", lambda epoch: None)
    path = tmp_path / "checkpoints" / TRIAL.key / "best.safetensors"
    assert (
        safetensors.torch.load_file(path).keys()
        == toys.run(TRIAL).classifier.model.state_dict().keys()
    )
    with safetensors.safe_open(path, "pt") as file:
        assert json.loads(file.metadata()["bioimg"])["classes"] == ["class-0", "class-1", "class-2"]


class OpensFile:
    """An object that opens a file when it is unpickled."""

    def __reduce__(self) -> tuple:
        return (open, ("executed", "w"))


def test_malicious_checkpoint_is_not_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    LocalStorage(tmp_path).write(
        "bad/resume.pt", checkpoints._encode_state({"learner": OpensFile()})
    )
    with pytest.raises(Exception, match="Weights only load failed"):
        checkpoints.load_state(toys.run(TRIAL), LocalStorage(tmp_path), "bad")
    assert not (tmp_path / "executed").exists()
