"""The disk space of a complete grid, measured from its files, is within the limit."""

import contextlib
import dataclasses
import io
import itertools
import re
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from bioimg import runner
from bioimg.config import TrialConfig
from bioimg.errors import UserError
from bioimg.experiment import EarlyStopping, Experiment
from bioimg.models.classifier import build_classifier
from bioimg.results.epoch_summary import EpochMetrics
from bioimg.results.result_store import Results, ResultStore, read_results
from bioimg.results.table_store import TableStore
from bioimg.storage.filesystem import LocalStorage
from bioimg.training import checkpoint_pruning, checkpoints
from bioimg.training.save_schedule import SaveSchedule
from bioimg.training.trial_runner import TrialContext, run_trial
from bioimg.training.trial_trainer import TrialTrainer
from support import example_results, toys
from support.consoles import Interrupted, InterruptingConsole
from support.experiments import LENIENT_ALPHA, run_experiment
from support.results import assert_same_results

IMAGES = toys.images(size=32)
FROZEN = toys.trial(model="resnext_tiny", image_size=32, weights="TEXTURES_V1", freeze="features")
AXES = {
    "weights": ("TEXTURES_V1", "TEXTURES_V2"),
    "learning_rate": (1e-3, 2e-3, 3e-3),
    "freeze": ("none", "features"),
}


@pytest.fixture(autouse=True)
def _states_after_every_epoch(monkeypatch):
    """Save after every epoch, however long it takes."""
    monkeypatch.setattr(SaveSchedule, "is_due", lambda schedule, now: True)


@pytest.fixture(scope="module")
def grid(tmp_path_factory) -> Experiment:
    """Two weights, three learning rates, frozen or not.

    Trials can be stopped after the second of three epochs.
    """
    folder = tmp_path_factory.mktemp("images")
    for path, pixels in zip(IMAGES.paths, IMAGES.pixels, strict=True):
        (folder / path).parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(folder / path)
    base = dataclasses.replace(FROZEN, data=str(folder))
    return Experiment(
        name="toy",
        base=base,
        axes=AXES,
        early_stopping=EarlyStopping(grace_period=2, alpha=LENIENT_ALPHA),
    )


def stoppable_trials(grid: Experiment) -> list[TrialConfig]:
    """Return the trials that early stopping may stop, in the order in which they run."""
    return [trial for trial in grid.in_run_order(grid.trials()) if trial.freeze == "none"]


def fix_scores(grid: Experiment, stopped: int, best: int, patch: pytest.MonkeyPatch) -> None:
    """Let the last trials fall behind, each more than the one before it.

    The validation loss is lowest at the epoch `best`. A state whose last epoch is the best holds
    three models (the weights and two moments of each), and any other holds four.
    """
    add_epoch = TrialTrainer.add_epoch
    trials = stoppable_trials(grid)
    losers = trials[len(trials) - stopped :]
    rank_by_key = {trial.key: rank for rank, trial in enumerate(losers, start=1)}

    def add_fixed_epoch(trainer: TrialTrainer, epoch: EpochMetrics) -> EpochMetrics:
        val_images = len(trainer.split.val)
        right = val_images // 2 - rank_by_key.get(trainer.trial.key, 0)
        fixed_epoch = dataclasses.replace(
            epoch,
            val_loss=1 + abs(epoch.epoch - best),
            val_score=right / val_images,
            val_correct=np.packbits(np.arange(val_images) < right).tobytes(),
        )
        return add_epoch(trainer, fixed_epoch)

    patch.setattr(TrialTrainer, "add_epoch", add_fixed_epoch)


def fail_at_epoch(keys: Collection[str], at: int, patch: pytest.MonkeyPatch) -> None:
    """Let trials raise after they have started an epoch."""
    start_epoch = TrialTrainer.start_epoch

    def start_and_fail(trainer: TrialTrainer, epoch: int) -> None:
        start_epoch(trainer, epoch)
        if trainer.trial.key in keys and epoch == at:
            raise RuntimeError("the GPU failed")

    patch.setattr(TrialTrainer, "start_epoch", start_and_fail)


def run(
    folder: Path, experiment: Experiment, console: io.StringIO | None = None, **options: Any
) -> Results:
    return run_experiment(experiment, folder, console, local=True, **options)


def checkpoint_sizes(folder: Path) -> dict[str, int]:
    """Return the sizes of the checkpoint files in bytes, by their names."""
    checkpoint_folder = folder / "checkpoints"
    return {
        str(path.relative_to(checkpoint_folder)): path.stat().st_size
        for path in checkpoint_folder.rglob("*")
        if path.is_file()
    }


def check_limit(folder: Path) -> tuple[list[str], float]:
    """Check the files of twelve trials against the limit, and the rows against the files.

    Returns:
        The keys of the stopped trials that have a state, and the room below the limit, in states.
    """
    files, trials = checkpoint_sizes(folder), read_results(folder).trials
    model = max(size for name, size in files.items() if name.endswith(".safetensors"))
    states = {name: size for name, size in files.items() if "/resume" in name}
    most = 12 * model + 2 * max(states.values())
    assert len(trials) == 12
    assert sum(files.values()) <= most
    backbones = sum(size for name, size in files.items() if name.startswith("backbones/"))
    assert trials["bytes"].sum() + backbones == sum(files.values()), (
        "rows have the size of each trial alone"
    )
    kept = [
        key
        for key in trials.loc[trials["status"] == "stopped", "key"]
        if any(name.startswith(f"{key}/") for name in states)
    ]
    return kept, (most - sum(files.values())) / max(states.values())


TYPICAL = [(2, 2)]
OTHERS = [case for case in itertools.product(range(6), (1, 2)) if case not in TYPICAL]


@pytest.mark.parametrize(
    ("stopped", "best"),
    [*TYPICAL, *(pytest.param(*case, marks=pytest.mark.nightly) for case in OTHERS)],
)
def test_grid_keeps_a_model_per_trial_and_two_states(grid, stopped, best, tmp_path, monkeypatch):
    fix_scores(grid, stopped, best, monkeypatch)
    console = io.StringIO()
    trials = run(tmp_path / "out", grid, console).trials
    assert trials["status"].eq("stopped").sum() == stopped
    kept, room = check_limit(tmp_path / "out")
    expected = [trial.key for trial in stoppable_trials(grid)[6 - stopped :]]
    assert sorted(kept) == sorted(expected[: len(kept)]), "the best of them keep their states"
    dropped = stopped - len(kept)
    assert len(kept) >= 2 or not dropped
    assert bool(dropped) == (
        f"of {dropped} of {stopped} stopped or failed trials was deleted" in console.getvalue()
    )
    assert room < 1 or not dropped, "more were deleted than necessary"


def keys_with_state(folder: Path) -> list[str]:
    """Return the sorted keys of the trials that have a state."""
    states = (folder / "checkpoints").rglob("resume*.pt")
    return sorted({path.parent.name for path in states})


@pytest.fixture
def partly_failed(grid, tmp_path, monkeypatch) -> tuple[Path, list[str], str]:
    """Run a grid in which trials failed. Return its folder, their keys and the console's output.

    Of the trials on trained backbones the first is completed, the last one is stopped, and all
    others failed at their third epoch.
    """
    fix_scores(grid, 1, 1, monkeypatch)
    failed = [trial.key for trial in stoppable_trials(grid)[1:5]]
    console = io.StringIO()
    with monkeypatch.context() as patch:
        fail_at_epoch(failed, 3, patch)
        run(tmp_path / "out", grid, console, exit_code=1)
    return tmp_path / "out", failed, console.getvalue()


@pytest.mark.ray
def test_failed_trials_lose_states_before_stopped_ones(grid, partly_failed):
    folder, failed, output = partly_failed
    assert read_results(folder).trials["status"].value_counts().to_dict() == {
        "completed": 7,
        "failed": 4,
        "stopped": 1,
    }
    kept, room = check_limit(folder)
    assert kept == [stoppable_trials(grid)[-1].key]
    left = [key for key in failed if key in keys_with_state(folder)]
    assert left == sorted(failed)[4 - len(left) :]
    assert 1 <= len(left) < 4
    assert f"of {4 - len(left)} of 5 stopped or failed trials was deleted" in output
    assert room < 2, "more were deleted than necessary: each had two states"


@pytest.mark.nightly
def test_failed_trials_continue_or_restart_with_same_results(grid, partly_failed, tmp_path):
    folder, failed, _ = partly_failed
    left, console = set(failed) & set(keys_with_state(folder)), io.StringIO()
    ours, theirs = run(folder, grid, console), run(tmp_path / "whole", grid)
    for results in (ours, theirs):
        del results.trials["bytes"]  # error.txt stays
    assert_same_results(ours, theirs)
    assert console.getvalue().count("epoch 1/3") == 4 - len(left)
    assert console.getvalue().count("epoch 3/3") == 4


@pytest.fixture(scope="module")
def unpruned_grid(grid, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("unpruned") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "prune_checkpoints", lambda *_: None)
        fix_scores(grid, 5, 1, patch)
        run(folder, grid)
    return folder


@pytest.fixture
def unpruned(grid, unpruned_grid, monkeypatch, tmp_path) -> Path:
    """A grid in which all stoppable trials but one were stopped, and all have their states."""
    fix_scores(grid, 5, 1, monkeypatch)
    return Path(shutil.copytree(unpruned_grid, tmp_path / "out"))


@pytest.mark.nightly
def test_repeated_command_changes_nothing(grid, unpruned):
    states = checkpoint_sizes(unpruned)
    run(unpruned, grid)
    kept, _ = check_limit(unpruned)
    assert sum("/resume" in name for name in states) - 1 == len(kept) + 6, (
        "frozen trials keep theirs"
    )
    before, files = read_results(unpruned), checkpoint_sizes(unpruned)
    console = io.StringIO()
    run(unpruned, grid, console)
    assert not re.search(r"epoch \d/3|was deleted", console.getvalue())
    assert checkpoint_sizes(unpruned) == files
    assert_same_results(read_results(unpruned), before)


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.nightly
@pytest.mark.parametrize("method", ["delete", "write"])
def test_interrupted_pruning_is_completed_by_next_run(
    grid, unpruned, tmp_path, monkeypatch, method
):
    expected = run(Path(shutil.copytree(unpruned, tmp_path / "whole")), grid)
    first = unpruned / "checkpoints" / stoppable_trials(grid)[-1].key
    delete = LocalStorage.delete

    def delete_and_interrupt(storage: LocalStorage, name: str) -> None:
        existed = storage.size(name) is not None
        delete(storage, name)
        if existed:
            interrupt()

    with monkeypatch.context() as patch:
        if method == "delete":
            patch.setattr(LocalStorage, "delete", delete_and_interrupt)
        else:
            patch.setattr(TableStore, "write", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(unpruned, grid)
    assert not list(first.glob("resume*.pt"))
    assert_same_results(run(unpruned, grid), expected)
    check_limit(unpruned)


@pytest.mark.ray
def test_trials_without_state_finish_as_if_never_stopped(grid, unpruned, tmp_path):
    run(unpruned, grid)
    dropped = 5 - len(check_limit(unpruned)[0])
    console = io.StringIO()
    finished = run(unpruned, grid, console, finish=())
    assert console.getvalue().count("epoch 1/3") == dropped >= 1
    assert_same_results(
        finished, run(tmp_path / "whole", dataclasses.replace(grid, early_stopping=None))
    )


@pytest.mark.nightly
def test_stopped_row_stays_while_trial_is_retrained(grid, unpruned):
    before = run(unpruned, grid)
    with pytest.raises(Interrupted):
        run(
            unpruned,
            grid,
            InterruptingConsole("epoch 1/3", 1),
            finish=(stoppable_trials(grid)[-1].key,),
        )
    assert stoppable_trials(grid)[-1].key in keys_with_state(unpruned)
    assert_same_results(run(unpruned, grid), before)


@pytest.mark.nightly
def test_longer_trials_without_state_count_as_restarted(grid, unpruned):
    run(unpruned, grid)
    kept, _ = check_limit(unpruned)
    longer = dataclasses.replace(grid, base=dataclasses.replace(grid.base, epochs=4))
    store = ResultStore(unpruned)
    assert runner.count_restarted_trials(
        longer.trials(), store, store.tables.trial_statuses()
    ) == 6 - len(kept), "the completed trial lost its state, too"


@pytest.mark.nightly
def test_keep_all_keeps_every_state(grid, unpruned):
    files = checkpoint_sizes(unpruned)
    run(unpruned, grid, keep="all")
    assert checkpoint_sizes(unpruned) == files


def test_states_are_ranked_by_rung_then_score():
    rows = [
        {
            "status": "stopped",
            "stopped_at_rung": rung,
            "rung_metric": metric,
            "rung_score": score,
            "key": f"{rung} {score}",
        }
        for rung, metric, score in [
            (4, "val_score", 0.6),
            (2, "val_score", 0.6),
            (2, "val_score", 0.8),
            (2, "val_loss", 1.5),
            (2, "val_loss", 1.2),
        ]
    ]
    assert [row["key"] for row in sorted(rows, key=checkpoint_pruning._progress_rank)] == [
        "2 1.5",
        "2 1.2",
        "2 0.6",
        "2 0.8",
        "4 0.6",
    ]


def make_context(folder: Path) -> TrialContext:
    store = ResultStore(folder)
    if not folder.exists():
        store.open_for_writing(example_results.describe_experiment(FROZEN, {}, IMAGES.classes))
        store.release()
    return TrialContext(experiment_name="toy", store=store, device=torch.device("cpu"))


def test_trials_share_one_file_of_frozen_backbone(tmp_path):
    context = make_context(tmp_path / "out")
    trials = [FROZEN, dataclasses.replace(FROZEN, batch_size=24)]
    for trial in trials:
        run_trial(trial, toys.dataset(trial, IMAGES), context, lambda epoch: None)
    assert len(list((tmp_path / "out" / "checkpoints" / "backbones").iterdir())) == 1
    expected = build_classifier(FROZEN.model_config, 3).model.state_dict()
    heads = []
    for trial in trials:
        trial_folder = context.store.checkpoint_folder(trial.key)
        own = safetensors.torch.load_file(tmp_path / "out" / trial_folder / "best.safetensors")
        assert own.keys() == {"fc.weight", "fc.bias"}
        whole = checkpoints.load_best_model(context.store.storage, trial_folder)
        assert whole.tensors.keys() == expected.keys()
        assert all(
            torch.equal(whole.tensors[name], expected[name])
            for name in expected.keys() - own.keys()
        )
        assert whole.metadata["classes"] == list(IMAGES.classes)
        heads.append(whole.tensors["fc.weight"])
    assert not torch.equal(*heads)


def test_simultaneous_lanes_leave_a_complete_backbone(tmp_path, monkeypatch):
    context = make_context(tmp_path / "out")
    run_trial(FROZEN, toys.dataset(FROZEN, IMAGES), context, lambda epoch: None)
    (file,) = (tmp_path / "out" / "checkpoints" / "backbones").iterdir()
    before, size = file.read_bytes(), context.store.storage.size
    monkeypatch.setattr(
        context.store.storage, "size", lambda name: None if "backbones" in name else size(name)
    )
    other = dataclasses.replace(FROZEN, batch_size=24)
    run_trial(other, toys.dataset(other, IMAGES), context, lambda epoch: None)
    assert [path.read_bytes() for path in file.parent.iterdir()] == [before]


@pytest.mark.parametrize("file", ["best.safetensors", "backbones"])
def test_damaged_model_is_never_read(file, tmp_path):
    context = make_context(tmp_path / "out")
    run_trial(FROZEN, toys.dataset(FROZEN, IMAGES), context, lambda epoch: None)
    files, trial_folder = context.store.storage, context.store.checkpoint_folder(FROZEN.key)
    (name,) = (name for name in files.names("checkpoints") if file in name)
    content, whole = files.read(name), checkpoints.load_best_model(files, trial_folder)
    step = len(content) // 40
    for position in (0, 9, 100, *range(200, len(content), step)):
        files.write(
            name, content[:position] + bytes([content[position] ^ 4]) + content[position + 1 :]
        )
        with contextlib.suppress(UserError):  # not raised where the bit doesn't matter
            read = checkpoints.load_best_model(files, trial_folder)
            assert read.metadata == whole.metadata
            assert all(
                torch.equal(read.tensors[key], tensor) for key, tensor in whole.tensors.items()
            )
    files.write(name, content[:-9])
    with pytest.raises(
        UserError, match=r"is damaged .*Replace it by a copy, or run the experiment again"
    ):
        checkpoints.load_best_model(files, trial_folder)


def test_missing_weights_error_names_keep(tmp_path):
    with pytest.raises(
        UserError,
        match=r"there is no .*/abc/best.safetensors.*--keep best \(the default\) or --keep all",
    ):
        checkpoints.load_best_model(ResultStore(tmp_path).storage, "checkpoints/abc")
