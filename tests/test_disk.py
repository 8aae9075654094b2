"""What a whole grid takes on disk, measured from its files, against the bound that holds for usual grids."""

import contextlib
import dataclasses
from pathlib import Path

import pytest
import results_example
import safetensors.torch
import torch
import toys

from bioimg.config import TrialConfig, UserError
from bioimg.experiment import Stop
from bioimg.model.build import build
from bioimg.results.store import Store
from bioimg.training import checkpoint
from bioimg.training.run import Run
from bioimg.training.trial import Place, run_trial

IMAGES = toys.images(size=32)
WEIGHTS = ("TEXTURES_V1", "TEXTURES_V2")
FROZEN = toys.trial(model="resnext_tiny", image_size=32, weights="TEXTURES_V1", freeze="features")


def place(folder: Path) -> Place:
    store = Store(folder)
    if not folder.exists():
        store.begin(results_example.description(FROZEN, {}, IMAGES.classes))
        store.release()
    return Place(experiment="toy", store=store, device=torch.device("cpu"))


def grid() -> list[TrialConfig]:
    """The usual one: two weights, three batch sizes, frozen or not."""
    sizes, freezes = (12, 24, 48), ("none", "features")
    return [
        dataclasses.replace(FROZEN, weights=weights, batch_size=size, freeze=freeze, learning_rate=1e-3)
        for weights in WEIGHTS
        for size in sizes
        for freeze in freezes
    ]


def taken(folder: Path, stopped: int, monkeypatch, best: int) -> tuple[float, float]:
    """Bytes of the checkpoints of the grid, in models, when so many of its fine-tuned trials are stopped; and of one state.

    best: the epoch of the lowest validation loss, whatever it was, of two; a state whose last epoch is the best is smaller.
    """
    record = Run.record
    loss = {1: 1.0, 2: 2.0 if best == 1 else 0.5, 3: 3.0}
    monkeypatch.setattr(Run, "record", lambda run, epoch: record(run, dataclasses.replace(epoch, val_loss=loss[epoch.epoch])))
    where, tuned = place(folder), [trial for trial in grid() if trial.freeze == "none"]
    for trial in grid():
        ends = trial in tuned[:stopped]
        run_trial(trial, IMAGES, where, lambda epoch, ends=ends: Stop(2, 0.1, 0.2, 1) if ends and epoch.epoch == 2 else None)
    files = where.store.files
    model = files.size(f"{where.store.checkpoint(tuned[-1].key)}/best.safetensors") or 0
    state = files.size(f"{where.store.checkpoint(tuned[0].key)}/resume.pt") or 0
    rows = where.store.every("trials")
    backbones = files.used("checkpoints/backbones")
    assert sum(row["bytes"] for row in rows) + backbones == files.used("checkpoints"), "rows say what each trial takes alone"
    assert 1.9 < backbones / model < 2
    return files.used("checkpoints") / model, state / model


@pytest.mark.parametrize(("stopped", "best"), [(1, 1), (3, 1), (4, 2)])
def test_the_usual_grid_takes_less_than_a_model_for_each_trial_and_a_state_for_each_lane(stopped, best, tmp_path, monkeypatch):
    models, state = taken(tmp_path / "out", stopped, monkeypatch, best)
    assert models < 12 + 2 * state


def test_at_worst_all_but_one_are_stopped_after_their_best_epoch_and_take_a_state_each(tmp_path, monkeypatch):
    models, state = taken(tmp_path / "out", 5, monkeypatch, best=1)
    assert 3.9 < state < 4.1, "the model, two moments of each weight, and the best epoch"
    heads = 0.2
    assert 12 + 2 * state < models < 5 * state + 1 + 2 + heads, "three models more than that"


def test_trials_on_one_frozen_backbone_share_its_file_and_each_is_read_back_whole(tmp_path):
    where = place(tmp_path / "out")
    trials = [FROZEN, dataclasses.replace(FROZEN, batch_size=24)]
    for trial in trials:
        run_trial(trial, IMAGES, where, lambda epoch: None)
    assert len(list((tmp_path / "out" / "checkpoints" / "backbones").iterdir())) == 1
    expected = build(FROZEN, 3).model.state_dict()
    heads = []
    for trial in trials:
        under = where.store.checkpoint(trial.key)
        own = safetensors.torch.load_file(tmp_path / "out" / under / "best.safetensors")
        assert own.keys() == {"fc.weight", "fc.bias"}
        whole = checkpoint.best(where.store.files, under)
        assert whole.tensors.keys() == expected.keys()
        assert all(torch.equal(whole.tensors[name], expected[name]) for name in expected.keys() - own.keys())
        assert whole.about["classes"] == list(IMAGES.classes)
        heads.append(whole.tensors["fc.weight"])
    assert not torch.equal(*heads)


def test_lanes_that_find_no_backbone_at_the_same_time_leave_a_whole_one(tmp_path, monkeypatch):
    where = place(tmp_path / "out")
    run_trial(FROZEN, IMAGES, where, lambda epoch: None)
    (file,) = (tmp_path / "out" / "checkpoints" / "backbones").iterdir()
    before, size = file.read_bytes(), where.store.files.size
    monkeypatch.setattr(where.store.files, "size", lambda name: None if "backbones" in name else size(name))
    run_trial(dataclasses.replace(FROZEN, batch_size=24), IMAGES, where, lambda epoch: None)
    assert [path.read_bytes() for path in file.parent.iterdir()] == [before]


@pytest.mark.parametrize("which", ["best.safetensors", "backbones"])
def test_a_damaged_model_is_never_read_as_if_it_were_whole(which, tmp_path):
    where = place(tmp_path / "out")
    run_trial(FROZEN, IMAGES, where, lambda epoch: None)
    files, under = where.store.files, where.store.checkpoint(FROZEN.key)
    (name,) = (name for name in files.names("checkpoints") if which in name)
    content, whole = files.read(name), checkpoint.best(files, under)
    step = len(content) // 40
    for position in (0, 9, 100, *range(200, len(content), step)):
        files.write(name, content[:position] + bytes([content[position] ^ 4]) + content[position + 1 :])
        with contextlib.suppress(UserError):  # raised but where the bit says which checksum it is, or nothing that counts
            read = checkpoint.best(files, under)
            assert read.about == whole.about
            assert all(torch.equal(read.tensors[key], tensor) for key, tensor in whole.tensors.items())
    files.write(name, content[:-9])
    with pytest.raises(UserError, match=r"is damaged .*Put a copy of it in its place, or run the experiment again"):
        checkpoint.best(files, under)


def test_weights_that_were_not_kept_are_named_with_the_way_out(tmp_path):
    with pytest.raises(UserError, match=r"there is no .*/checkpoints/abc/best.safetensors.*--keep best, the default, or all"):
        checkpoint.best(Store(tmp_path).files, "checkpoints/abc")


def test_a_model_of_an_earlier_version_is_read_without_a_checksum(tmp_path):
    files = Store(tmp_path).files
    files.write(
        "checkpoints/abc/best.safetensors", safetensors.torch.save({"a": torch.ones(2)}, {"bioimg": '{"classes": ["x"]}'})
    )
    read = checkpoint.best(files, "checkpoints/abc")
    assert (read.tensors["a"].tolist(), read.about) == ([1, 1], {"classes": ["x"]})
