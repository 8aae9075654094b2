"""What a trial leaves on disk, by how it ended and what is to be kept."""

import json

import pytest
import results_example
import safetensors.torch
import torch
import toys
from torch.serialization import set_crc32_options

from bioimg.experiment import Stop
from bioimg.results.folder import Disk
from bioimg.results.store import Store
from bioimg.training import checkpoint
from bioimg.training.loop import train
from bioimg.training.trial import Place, run_trial

TRIAL = toys.trial(epochs=5)


def left(folder, keep: str, judge) -> tuple[set[str], int]:
    """The names of the files of a trial that ran, and what its row says they take."""
    store = Store(folder)
    store.begin({**results_example.description(TRIAL, {}, ("a", "b", "c")), "keep": keep})
    run_trial(TRIAL, toys.images(), Place(experiment="toy", store=store, device=torch.device("cpu")), judge)
    store.release()
    row = store.rows("trials", TRIAL.key)[0]
    files = {path.name: path.stat().st_size for path in (folder / "checkpoints").rglob("*") if path.is_file()}
    assert row["bytes"] == sum(files.values())
    return set(files), row["bytes"]


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
def test_what_stays_is_what_was_asked_for_and_its_size_is_in_the_row(keep, completed, stopped, tmp_path):
    assert left(tmp_path / "completed", keep, lambda epoch: None)[0] == completed
    assert left(tmp_path / "stopped", keep, lambda epoch: Stop(3, 0.1, 0.2, 1) if epoch.epoch == 3 else None)[0] == stopped


def test_the_small_state_of_a_completed_frozen_trial_stays_for_more_epochs(tmp_path):
    store = Store(tmp_path)
    place, trial = Place(experiment="toy", store=store, device=torch.device("cpu")), toys.trial(epochs=2, freeze="features")
    run_trial(trial, toys.images(), place, lambda epoch: None)
    names = {name.rpartition("/")[2] for name in store.files.names(store.checkpoint(trial.key))}
    assert names == {"best.safetensors", "resume.pt"}
    cosine = toys.trial(epochs=2, freeze="features", schedule="cosine")
    run_trial(cosine, toys.images(), place, lambda epoch: None)
    assert store.files.names(store.checkpoint(cosine.key)) == [f"{store.checkpoint(cosine.key)}/best.safetensors"]


def test_a_failed_trial_keeps_what_its_next_attempt_goes_on_from(tmp_path):
    assert left(tmp_path, "best", failing)[0] == {"resume.pt", "error.txt"}


def test_a_state_whose_last_epoch_is_the_best_holds_its_weights_once_and_goes_on_alike(tmp_path):
    files, run = Disk(tmp_path), toys.run(toys.trial(model="resnext_tiny", image_size=32, epochs=1))
    for _ in train(run):
        checkpoint.save(run, files, "once")
    weights = sum(tensor.nbytes for tensor in run.learner.state_dict().values())
    assert (files.size("once/resume.pt") or 0) < 3.3 * weights, "AdamW keeps two more tensors for each of weights"
    again = toys.run(toys.trial(model="resnext_tiny", image_size=32, epochs=1))
    checkpoint.load(again, files, "once")
    assert all(torch.equal(again.best[name], tensor) for name, tensor in run.best.items())
    again.begin(2)
    for parameter in again.learner.parameters():
        parameter.data.zero_()
    assert all(torch.equal(again.best[name], tensor) for name, tensor in run.best.items()), "training on must not change it"


def test_the_weights_of_the_best_epoch_are_a_whole_model_that_says_what_it_is(tmp_path):
    left(tmp_path, "best", lambda epoch: None)
    path = tmp_path / "checkpoints" / TRIAL.key / "best.safetensors"
    assert safetensors.torch.load_file(path).keys() == toys.run(TRIAL).classifier.model.state_dict().keys()
    with safetensors.safe_open(path, "pt") as file:
        assert json.loads(file.metadata()["bioimg"])["classes"] == ["class-0", "class-1", "class-2"]


def test_a_state_of_an_earlier_version_has_no_checksum_and_is_gone_on_from(tmp_path):
    files, run = Disk(tmp_path), toys.run(TRIAL)
    next(train(run))
    (tmp_path / "old").mkdir()
    set_crc32_options(True)  # as torch has it
    torch.save(
        {name: value for name, value in run.state_dict().items() if name != "continued_from"}, tmp_path / "old" / "resume.pt"
    )
    again = toys.run(TRIAL)
    checkpoint.load(again, files, "old")
    assert again.history == run.history


class Runs:
    """What a malicious checkpoint would have Python call."""

    def __reduce__(self) -> tuple:
        return (open, ("executed", "w"))


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad").mkdir()
    torch.save({"learner": Runs()}, tmp_path / "bad" / "resume.pt")
    with pytest.raises(Exception, match="Weights only load failed"):
        checkpoint.load(toys.run(TRIAL), Disk(tmp_path), "bad")
    assert not (tmp_path / "executed").exists()
