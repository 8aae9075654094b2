"""The disk space of a complete grid, measured from its files, is within the limit."""

import contextlib
import dataclasses
import io
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from PIL import Image
from rich.console import Console

from bioimg import runner
from bioimg.config import TrialConfig
from bioimg.errors import UserError
from bioimg.experiment import EarlyStopping, Experiment
from bioimg.models.classifier import build_classifier
from bioimg.results.result_store import Results, ResultStore, read_results
from bioimg.results.table_store import TableStore
from bioimg.run_options import RunOptions
from bioimg.storage.filesystem import LocalStorage
from bioimg.training import checkpoint_pruning, checkpoints
from bioimg.training.trial_runner import TrialContext, run_trial
from bioimg.training.trial_trainer import EpochMetrics, TrialTrainer
from support import simulated_results, toys
from support.consoles import Interrupted, InterruptingConsole
from support.results import assert_same_results

IMAGES = toys.images(size=32)
FROZEN = toys.trial(model="resnext_tiny", image_size=32, weights="TEXTURES_V1", freeze="features")
AXES = {
    "weights": ("TEXTURES_V1", "TEXTURES_V2"),
    "batch_size": (12, 24, 48),
    "freeze": ("none", "features"),
}


@pytest.fixture(scope="module")
def grid(tmp_path_factory) -> Experiment:
    """The usual grid: two weights, three batch sizes, frozen or not; trials can be stopped after the second of three epochs."""
    folder = tmp_path_factory.mktemp("images")
    for path, pixels in zip(IMAGES.paths, IMAGES.pixels, strict=True):
        (folder / path).parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(folder / path)
    base = dataclasses.replace(FROZEN, data=str(folder), learning_rate=1e-3)
    return Experiment(
        name="toy", base=base, axes=AXES, early_stopping=EarlyStopping(grace_period=2)
    )


def tuned(grid: Experiment) -> list[TrialConfig]:
    """Trials that early stopping may stop, in the order in which they run."""
    return [trial for trial in grid.in_run_order(grid.trials()) if trial.freeze == "none"]


def fix(grid: Experiment, stopped: int, best: int, patch: pytest.MonkeyPatch) -> None:
    """Let the last trials fall behind, each more than the one before it, and the validation loss be lowest at some epoch.

    A state whose last epoch is the best holds three models: the weights and two moments of each; any other holds four.
    """
    record, count = TrialTrainer.add_epoch, len(tuned(grid))
    behind = {
        trial.key: place for place, trial in enumerate(tuned(grid)[count - stopped :], start=1)
    }

    def fixed(run: TrialTrainer, epoch: EpochMetrics) -> EpochMetrics:
        scores = {
            "val_loss": 1 + abs(epoch.epoch - best),
            "val_accuracy": 0.5 - behind.get(run.trial.key, 0) / 100,
        }
        return record(run, dataclasses.replace(epoch, **scores))

    patch.setattr(TrialTrainer, "add_epoch", fixed)


def fail(keys: Collection[str], at: int, patch: pytest.MonkeyPatch) -> None:
    """Let trials raise after they have started some epoch."""
    begin = TrialTrainer.start_epoch

    def failing(run: TrialTrainer, epoch: int) -> None:
        begin(run, epoch)
        if run.trial.key in keys and epoch == at:
            raise RuntimeError("a GPU fell off the bus")

    patch.setattr(TrialTrainer, "start_epoch", failing)


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


def sizes(folder: Path) -> dict[str, int]:
    """Sizes of the checkpoint files in bytes."""
    under = folder / "checkpoints"
    return {
        str(path.relative_to(under)): path.stat().st_size
        for path in under.rglob("*")
        if path.is_file()
    }


def check(folder: Path) -> tuple[list[str], float]:
    """Check the files of twelve trials against the limit, and the rows against the files.

    Returns the keys of the stopped trials that have a state, and what could be added to it all, in states.
    """
    files, trials = sizes(folder), read_results(folder).trials
    model = max(size for name, size in files.items() if name.endswith(".safetensors"))
    states = {name: size for name, size in files.items() if "/resume" in name}
    most = 12 * model + 2 * max(states.values())
    assert len(trials) == 12
    assert sum(files.values()) <= most
    backbones = sum(size for name, size in files.items() if name.startswith("backbones/"))
    assert trials["bytes"].sum() + backbones == sum(files.values()), (
        "rows say what each trial takes alone"
    )
    kept = [
        key
        for key in trials.loc[trials["status"] == "stopped", "key"]
        if f"{key}/resume.pt" in states
    ]
    return kept, (most - sum(files.values())) / max(states.values())


@pytest.mark.parametrize("best", [1, 2])
@pytest.mark.parametrize("stopped", range(6))
def test_a_grid_takes_at_most_a_model_for_each_trial_and_two_states(
    grid, stopped, best, tmp_path, monkeypatch
):
    fix(grid, stopped, best, monkeypatch)
    console = io.StringIO()
    trials = run(tmp_path / "out", grid, console).trials
    assert trials["status"].eq("stopped").sum() == stopped
    kept, room = check(tmp_path / "out")
    expected = [trial.key for trial in tuned(grid)[6 - stopped :]]
    assert sorted(kept) == sorted(expected[: len(kept)]), "those that did best keep theirs"
    dropped = stopped - len(kept)
    assert len(kept) >= 2 or not dropped
    assert bool(dropped) == (
        f"of {dropped} of {stopped} stopped or failed trials was deleted" in console.getvalue()
    )
    assert room < 1 or not dropped, "no more were dropped than necessary"


def with_state(folder: Path) -> list[str]:
    """Keys of the trials that have one, in order."""
    return sorted(path.parent.name for path in (folder / "checkpoints").rglob("resume.pt"))


@pytest.fixture
def partly_failed(grid, tmp_path, monkeypatch) -> tuple[Path, list[str], str]:
    """A grid where of the trials on trained backbones the first was completed, the last was stopped, and all others failed at
    their third epoch: its folder, the keys of the failed ones, and the console's output."""
    fix(grid, 1, 1, monkeypatch)
    failed = [trial.key for trial in tuned(grid)[1:5]]
    console = io.StringIO()
    with monkeypatch.context() as patch:
        fail(failed, 3, patch)
        run(tmp_path / "out", grid, console)
    return tmp_path / "out", failed, console.getvalue()


@pytest.mark.ray
def test_states_of_failed_trials_count_and_go_before_those_of_stopped_ones(grid, partly_failed):
    folder, failed, told = partly_failed
    assert read_results(folder).trials["status"].value_counts().to_dict() == {
        "completed": 7,
        "failed": 4,
        "stopped": 1,
    }
    kept, room = check(folder)
    assert kept == [tuned(grid)[-1].key]
    left = [key for key in failed if key in with_state(folder)]
    assert left == sorted(failed)[4 - len(left) :]
    assert 1 <= len(left) < 4
    assert f"of {4 - len(left)} of 5 stopped or failed trials was deleted" in told
    assert room < 2, "no more were dropped than necessary: each had two states"


@pytest.mark.nightly
def test_failed_trials_go_on_where_their_state_is_and_else_begin_again_with_the_same_outcome(
    grid, partly_failed, tmp_path
):
    folder, failed, _ = partly_failed
    left, console = set(failed) & set(with_state(folder)), io.StringIO()
    ours, theirs = run(folder, grid, console), run(tmp_path / "whole", grid)
    for results in (ours, theirs):
        del results.trials["bytes"]  # error.txt stays
    assert_same_results(ours, theirs)
    assert console.getvalue().count("epoch 1/3") == 4 - len(left)
    assert console.getvalue().count("epoch 3/3") == 4


@pytest.fixture(scope="module")
def crowded_once(grid, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("crowded") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "prune_checkpoints", lambda *_: None)
        fix(grid, 5, 1, patch)
        run(folder, grid)
    return folder


@pytest.fixture
def crowded(grid, crowded_once, monkeypatch, tmp_path) -> Path:
    """A grid where all but one of the trials that can be stopped were, after their best epoch, and all have their states."""
    fix(grid, 5, 1, monkeypatch)
    return Path(shutil.copytree(crowded_once, tmp_path / "out"))


@pytest.mark.nightly
def test_the_same_command_once_more_changes_nothing(grid, crowded):
    states = sizes(crowded)
    run(crowded, grid)
    kept, _ = check(crowded)
    assert sum(name.endswith("resume.pt") for name in states) - 1 == len(kept) + 6, (
        "the frozen ones keep theirs"
    )
    before, files = read_results(crowded), sizes(crowded)
    console = io.StringIO()
    run(crowded, grid, console)
    assert console.getvalue() == ""
    assert sizes(crowded) == files
    assert_same_results(read_results(crowded), before)


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.nightly
@pytest.mark.parametrize("cut", ["delete", "write"])
def test_a_run_that_is_cut_off_while_it_makes_room_is_mended_by_the_next(
    grid, crowded, tmp_path, monkeypatch, cut
):
    expected = run(Path(shutil.copytree(crowded, tmp_path / "whole")), grid)
    first, delete = crowded / "checkpoints" / tuned(grid)[-1].key, LocalStorage.delete
    after = {
        "delete": (LocalStorage, lambda *given: interrupted(delete(*given))),
        "write": (TableStore, interrupted),
    }
    with monkeypatch.context() as patch:
        owner, strike = after[cut]
        patch.setattr(owner, cut, strike)
        with pytest.raises(KeyboardInterrupt):
            run(crowded, grid)
    assert not (first / "resume.pt").exists()
    assert_same_results(run(crowded, grid), expected)
    check(crowded)


@pytest.mark.ray
def test_trials_whose_state_was_dropped_are_finished_as_if_they_had_never_been_stopped(
    grid, crowded, tmp_path
):
    run(crowded, grid)
    dropped = 5 - len(check(crowded)[0])
    console = io.StringIO()
    finished = run(crowded, grid, console, finish=())
    assert console.getvalue().count("epoch 1/3") == dropped >= 1
    assert_same_results(
        finished, run(tmp_path / "whole", dataclasses.replace(grid, early_stopping=None))
    )


@pytest.mark.nightly
def test_a_stopped_row_stays_true_while_its_trial_is_trained_again(grid, crowded):
    before = run(crowded, grid)
    with pytest.raises(Interrupted):
        run(crowded, grid, InterruptingConsole("epoch 1/3", 1), finish=(tuned(grid)[-1].key,))
    assert (crowded / "checkpoints" / tuned(grid)[-1].key / "resume.pt").exists()
    assert_same_results(run(crowded, grid), before)


@pytest.mark.nightly
def test_more_epochs_of_a_trial_whose_state_was_dropped_are_counted_as_begun_anew(grid, crowded):
    run(crowded, grid)
    kept, _ = check(crowded)
    longer, store = (
        dataclasses.replace(grid, base=dataclasses.replace(grid.base, epochs=4)),
        ResultStore(crowded),
    )
    assert runner.count_restarted_trials(
        longer.trials(), store, store.tables.trial_statuses()
    ) == 6 - len(kept), "the completed one, too"


@pytest.mark.nightly
def test_with_keep_all_every_state_stays(grid, crowded):
    files = sizes(crowded)
    run(crowded, grid, keep="all")
    assert sizes(crowded) == files


def test_states_go_by_the_rung_and_then_by_the_score_that_was_compared():
    rows = [
        {
            "status": "stopped",
            "stopped_at_rung": rung,
            "rung_score": score,
            "rung_threshold": needed,
            "key": f"{rung} {score}",
        }
        for rung, score, needed in [
            (4, 0.6, 0.7),
            (2, 0.6, 0.7),
            (2, 0.8, 0.9),
            (2, 1.5, 0.9),
            (2, 1.2, 0.9),
        ]
    ]
    assert [row["key"] for row in sorted(rows, key=checkpoint_pruning._progress_rank)] == [
        "2 1.5",
        "2 1.2",
        "2 0.6",
        "2 0.8",
        "4 0.6",
    ]


def place(folder: Path) -> TrialContext:
    store = ResultStore(folder)
    if not folder.exists():
        store.open_for_writing(simulated_results.description(FROZEN, {}, IMAGES.classes))
        store.release()
    return TrialContext(experiment_name="toy", store=store, device=torch.device("cpu"))


def test_trials_on_one_frozen_backbone_share_its_file_and_each_is_read_back_whole(tmp_path):
    where = place(tmp_path / "out")
    trials = [FROZEN, dataclasses.replace(FROZEN, batch_size=24)]
    for trial in trials:
        run_trial(trial, toys.dataset(trial, IMAGES), where, lambda epoch: None)
    assert len(list((tmp_path / "out" / "checkpoints" / "backbones").iterdir())) == 1
    expected = build_classifier(FROZEN.model_config, 3).model.state_dict()
    heads = []
    for trial in trials:
        under = where.store.checkpoint_folder(trial.key)
        own = safetensors.torch.load_file(tmp_path / "out" / under / "best.safetensors")
        assert own.keys() == {"fc.weight", "fc.bias"}
        whole = checkpoints.load_best_model(where.store.storage, under)
        assert whole.tensors.keys() == expected.keys()
        assert all(
            torch.equal(whole.tensors[name], expected[name])
            for name in expected.keys() - own.keys()
        )
        assert whole.metadata["classes"] == list(IMAGES.classes)
        heads.append(whole.tensors["fc.weight"])
    assert not torch.equal(*heads)


def test_lanes_that_find_no_backbone_at_the_same_time_leave_a_whole_one(tmp_path, monkeypatch):
    where = place(tmp_path / "out")
    run_trial(FROZEN, toys.dataset(FROZEN, IMAGES), where, lambda epoch: None)
    (file,) = (tmp_path / "out" / "checkpoints" / "backbones").iterdir()
    before, size = file.read_bytes(), where.store.storage.size
    monkeypatch.setattr(
        where.store.storage, "size", lambda name: None if "backbones" in name else size(name)
    )
    run_trial(
        dataclasses.replace(FROZEN, batch_size=24),
        toys.dataset(FROZEN, IMAGES),
        where,
        lambda epoch: None,
    )
    assert [path.read_bytes() for path in file.parent.iterdir()] == [before]


@pytest.mark.parametrize("which", ["best.safetensors", "backbones"])
def test_a_damaged_model_is_never_read_as_if_it_were_whole(which, tmp_path):
    where = place(tmp_path / "out")
    run_trial(FROZEN, toys.dataset(FROZEN, IMAGES), where, lambda epoch: None)
    files, under = where.store.storage, where.store.checkpoint_folder(FROZEN.key)
    (name,) = (name for name in files.names("checkpoints") if which in name)
    content, whole = files.read(name), checkpoints.load_best_model(files, under)
    step = len(content) // 40
    for position in (0, 9, 100, *range(200, len(content), step)):
        files.write(
            name, content[:position] + bytes([content[position] ^ 4]) + content[position + 1 :]
        )
        with contextlib.suppress(UserError):  # raised, except where the bit doesn't matter
            read = checkpoints.load_best_model(files, under)
            assert read.metadata == whole.metadata
            assert all(
                torch.equal(read.tensors[key], tensor) for key, tensor in whole.tensors.items()
            )
    files.write(name, content[:-9])
    with pytest.raises(
        UserError, match=r"is damaged .*Replace it by a copy, or run the experiment again"
    ):
        checkpoints.load_best_model(files, under)


def test_weights_that_were_not_kept_are_named_with_the_way_out(tmp_path):
    with pytest.raises(
        UserError,
        match=r"there is no .*/checkpoints/abc/best.safetensors.*--keep best \(the default\) or --keep all",
    ):
        checkpoints.load_best_model(ResultStore(tmp_path).storage, "checkpoints/abc")
