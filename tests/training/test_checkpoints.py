"""What a trial leaves on disk, depending on how it ended and on --keep."""

import contextlib
import dataclasses
import json
from typing import Any

import pytest
import safetensors.torch
import torch

from bioimg.cluster import lanes
from bioimg.cluster.coordinator import Job
from bioimg.experiment import StopReason
from bioimg.results.result_store import ResultStore
from bioimg.storage.filesystem import LocalStorage
from bioimg.training import checkpoints
from bioimg.training.loop import train
from bioimg.training.trial_runner import TrialContext, record_failure, run_trial
from bioimg.training.trial_trainer import EpochMetrics, TrialTrainer
from support import simulated_results, toys

TRIAL = toys.trial(epochs=5)


def left(folder, keep: str, judge) -> tuple[set[str], int]:
    """The names of the files of a trial that ran, and their size according to its row."""
    store = ResultStore(folder)
    store.open_for_writing(
        {**simulated_results.description(TRIAL, {}, ("a", "b", "c")), "keep": keep}
    )
    run_trial(
        TRIAL,
        toys.dataset(TRIAL),
        TrialContext(experiment_name="toy", store=store, device=torch.device("cpu")),
        judge,
    )
    store.release()
    row = store.tables.trial_rows("trials", TRIAL.key)[0]
    files = {
        path.name: path.stat().st_size
        for path in (folder / "checkpoints").rglob("*")
        if path.is_file()
    }
    assert row["bytes"] == sum(files.values())
    return set(files), row["bytes"]


def taken(store: ResultStore) -> int:
    """What the files of the trial take on disk, in bytes."""
    return sum(store.storage.sizes(store.checkpoint_folder(TRIAL.key)).values())


def failing(epoch) -> bool:
    raise RuntimeError("no more")


@pytest.mark.parametrize(
    ("keep", "completed", "stopped"),
    [
        ("best", {"best.safetensors"}, {"resume.pt"}),
        ("none", set(), set()),
        (
            "all",
            {"best.safetensors", "resume.pt", "resume.previous.pt"},
            {"best.safetensors", "resume.pt", "resume.previous.pt"},
        ),
    ],
)
def test_what_stays_is_what_was_asked_for_and_its_size_is_in_the_row(
    keep, completed, stopped, tmp_path
):
    assert left(tmp_path / "completed", keep, lambda epoch: None)[0] == completed
    assert (
        left(
            tmp_path / "stopped",
            keep,
            lambda epoch: StopReason(3, 0.1, 0.2, (0.2,)) if epoch.epoch == 3 else None,
        )[0]
        == stopped
    )


def test_the_small_state_of_a_completed_frozen_trial_stays_for_more_epochs(tmp_path):
    store = ResultStore(tmp_path)
    place, trial = (
        TrialContext(experiment_name="toy", store=store, device=torch.device("cpu")),
        toys.trial(epochs=2, freeze="features"),
    )
    run_trial(trial, toys.dataset(trial), place, lambda epoch: None)
    names = {
        name.rpartition("/")[2] for name in store.storage.names(store.checkpoint_folder(trial.key))
    }
    assert names == {"best.safetensors", "resume.pt"}
    cosine = toys.trial(epochs=2, freeze="features", schedule="cosine")
    run_trial(cosine, toys.dataset(cosine), place, lambda epoch: None)
    assert store.storage.names(store.checkpoint_folder(cosine.key)) == [
        f"{store.checkpoint_folder(cosine.key)}/best.safetensors"
    ]


def test_a_failed_trial_keeps_what_its_next_attempt_goes_on_from(tmp_path):
    assert left(tmp_path, "best", failing)[0] == {"resume.pt", "error.txt"}


class Killed(BaseException):
    """Stands for the end of a process: nothing more is written to disk."""


def killed_before(store: ResultStore, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a method of the store's class end the process instead of writing a row or deleting anything."""

    def kill(name: str, *_: object, **__: object) -> None:
        raise Killed

    tables, write = store.tables, store.tables.write
    if what == "delete":
        monkeypatch.setattr(store.storage, "delete", kill)
    else:
        monkeypatch.setattr(
            tables, "write", lambda t, *rest: kill(t) if t == "trials" else write(t, *rest)
        )


@pytest.mark.parametrize("keep", ["best", "none"])
@pytest.mark.parametrize("stop", [None, StopReason(3, 0.1, 0.2, (0.2,))])
def test_a_trial_that_is_killed_before_its_row_is_written_is_not_trained_again(
    keep, stop, tmp_path, monkeypatch
):
    trained, begin, images = [], TrialTrainer.start_epoch, toys.images()
    monkeypatch.setattr(
        TrialTrainer,
        "start_epoch",
        lambda run, epoch: (trained.append(epoch), begin(run, epoch))[1],
    )

    def judge(epoch: EpochMetrics) -> StopReason | None:
        return stop if stop and epoch.epoch == 3 else None

    store = ResultStore(tmp_path)
    store.open_for_writing(
        {**simulated_results.description(TRIAL, {}, images.classes), "keep": keep}
    )
    store.release()
    with monkeypatch.context() as patch, contextlib.suppress(Killed):
        killed_before(store, "row", patch)
        run_trial(
            TRIAL,
            toys.dataset(TRIAL, images),
            TrialContext(experiment_name="toy", store=store, device=torch.device("cpu")),
            judge,
        )
    store = ResultStore(tmp_path)
    assert not store.tables.trial_statuses()
    run_trial(
        TRIAL,
        toys.dataset(TRIAL, images),
        TrialContext(experiment_name="toy", store=store, device=torch.device("cpu")),
        judge,
    )
    assert trained == list(range(1, (3 if stop else 5) + 1))
    assert store.tables.trial_rows("trials", TRIAL.key)[0]["bytes"] == taken(store)


def test_a_trial_whose_lane_was_killed_after_its_row_was_written_is_not_trained_again(
    tmp_path, monkeypatch
):
    images, place = (
        toys.images(),
        TrialContext(
            experiment_name="toy", store=ResultStore(tmp_path), device=torch.device("cpu")
        ),
    )
    lane: Any = None
    monkeypatch.setattr(lanes, "_get_dataset", lambda *_: toys.dataset(TRIAL, images))
    monkeypatch.setattr(lanes, "run_trial", lambda *_: "trained")
    again = Job(TRIAL.key, TRIAL, attempts=2)
    assert lanes._run_job(again, place, lane) == "trained"
    run_trial(TRIAL, toys.dataset(TRIAL, images), place, lambda epoch: None)
    assert lanes._run_job(again, place, lane) == "completed"


@pytest.mark.parametrize("keep", ["best", "none", "all"])
@pytest.mark.parametrize("stop", [None, StopReason(3, 0.1, 0.2, (0.2,))])
def test_states_that_a_killed_trial_could_not_drop_go_at_the_end_of_the_next_run(
    keep, stop, tmp_path, monkeypatch
):
    images, store = toys.images(), ResultStore(tmp_path)
    store.open_for_writing(
        {**simulated_results.description(TRIAL, {}, images.classes), "keep": keep}
    )
    store.release()
    place = TrialContext(experiment_name="toy", store=store, device=torch.device("cpu"))
    with monkeypatch.context() as patch, contextlib.suppress(Killed):
        killed_before(store, "delete", patch)
        run_trial(
            TRIAL,
            toys.dataset(TRIAL, images),
            place,
            lambda epoch: stop if epoch.epoch == 3 else None,
        )
    row = store.tables.trial_rows("trials", TRIAL.key)[0]
    assert (taken(store) > row["bytes"]) == (keep != "all")
    checkpoints.delete_leftover_states(store, [TRIAL])
    assert taken(store) == row["bytes"]


@pytest.mark.parametrize("lost", ["the worker", "an exception"])
def test_a_continued_trial_that_fails_before_an_epoch_of_its_own_has_those_of_the_shorter_one(
    lost, tmp_path, monkeypatch
):
    images, store = toys.images(), ResultStore(tmp_path)
    store.open_for_writing(
        {**simulated_results.description(TRIAL, {}, images.classes), "keep": "all"}
    )
    store.release()
    place, longer = (
        TrialContext(experiment_name="toy", store=store, device=torch.device("cpu")),
        toys.trial(epochs=7),
    )
    run_trial(TRIAL, toys.dataset(TRIAL, images), place, lambda epoch: None)
    again = dataclasses.replace(place, store=ResultStore(tmp_path))

    def end(run: TrialTrainer, epoch: int) -> None:
        raise RuntimeError("no more") if lost == "an exception" else Killed

    monkeypatch.setattr(TrialTrainer, "start_epoch", end)
    with contextlib.suppress(Killed):
        run_trial(longer, toys.dataset(longer, images), again, lambda epoch: None)
    if lost == "the worker":
        record_failure(longer, images, again, RuntimeError("its worker was lost"))
    row, known = (
        again.store.tables.trial_rows("trials", longer.key)[0],
        again.store.tables.trial_rows("epochs", TRIAL.key),
    )
    assert (row["status"], row["epochs_run"], row["continued_from"]) == ("failed", 5, TRIAL.key)
    assert [e["val_loss"] for e in again.store.tables.trial_rows("epochs", longer.key)] == [
        e["val_loss"] for e in known
    ]


def test_a_trial_whose_patience_runs_out_at_a_rung_is_complete(tmp_path):
    trial, images, store = (
        toys.trial(epochs=9, patience=1, learning_rate=1e-12),
        toys.images(),
        ResultStore(tmp_path),
    )
    place = TrialContext(experiment_name="toy", store=store, device=torch.device("cpu"))
    run_trial(
        trial,
        toys.dataset(trial, images),
        place,
        lambda epoch: StopReason(2, 0.1, 0.5, (0.6, 0.5, 0.4)) if epoch.epoch == 2 else None,
    )
    row = store.tables.trial_rows("trials", trial.key)[0]
    assert (row["status"], row["epochs_run"], row["out_of_patience"]) == ("completed", 2, True)
    assert row["test_accuracy"] is not None
    assert row["stopped_at_rung"] is None


def test_a_state_whose_last_epoch_is_the_best_holds_its_weights_once_and_goes_on_alike(tmp_path):
    files, run = (
        LocalStorage(tmp_path),
        toys.run(toys.trial(model="resnext_tiny", image_size=32, epochs=1)),
    )
    for _ in train(run):
        checkpoints.save_state(run, files, "once")
    weights = sum(tensor.nbytes for tensor in run.trained_module.state_dict().values())
    assert (files.size("once/resume.pt") or 0) < 3.3 * weights, (
        "AdamW keeps two more tensors for each of weights"
    )
    again = toys.run(toys.trial(model="resnext_tiny", image_size=32, epochs=1))
    checkpoints.load_state(again, files, "once")
    assert all(
        torch.equal(again.best_weights[name], tensor) for name, tensor in run.best_weights.items()
    )
    again.start_epoch(2)
    for parameter in again.trained_module.parameters():
        parameter.data.zero_()
    assert all(
        torch.equal(again.best_weights[name], tensor) for name, tensor in run.best_weights.items()
    ), "training on must not change it"


def test_the_weights_of_the_best_epoch_are_a_whole_model_that_says_what_it_is(tmp_path):
    left(tmp_path, "best", lambda epoch: None)
    path = tmp_path / "checkpoints" / TRIAL.key / "best.safetensors"
    assert (
        safetensors.torch.load_file(path).keys()
        == toys.run(TRIAL).classifier.model.state_dict().keys()
    )
    with safetensors.safe_open(path, "pt") as file:
        assert json.loads(file.metadata()["bioimg"])["classes"] == ["class-0", "class-1", "class-2"]


class Runs:
    """What a malicious checkpoint would have Python call."""

    def __reduce__(self) -> tuple:
        return (open, ("executed", "w"))


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    LocalStorage(tmp_path).write("bad/resume.pt", checkpoints._encode_state({"learner": Runs()}))
    with pytest.raises(Exception, match="Weights only load failed"):
        checkpoints.load_state(toys.run(TRIAL), LocalStorage(tmp_path), "bad")
    assert not (tmp_path / "executed").exists()
