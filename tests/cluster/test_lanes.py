"""The whole program on a real Ray: lanes, Tune, the board, DDP."""

import io
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
from rich.console import Console

from bioimg import runner
from bioimg.cluster.coordinator import start_coordinator
from bioimg.cluster.tune_scheduler import CohortScheduler
from bioimg.cluster.tune_trial import encode_trial
from bioimg.config import TrialConfig
from bioimg.experiment import EarlyStopping, Experiment
from bioimg.results.result_store import Results, read_results
from bioimg.run_options import RunOptions
from support.results import same

pytestmark = [
    pytest.mark.ray,
    pytest.mark.filterwarnings("ignore"),
]  # Ray's own warnings aren't ours to fix

BASE = TrialConfig(
    data="phantom",
    model="resnext_tiny",
    weights="none",
    image_size=32,
    epochs=3,
    learning_rate=1e-3,
    precision="float32",
)


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """Three CPUs, whatever the machine has: enough for two lanes or for two workers."""
    ray.init(address="local", num_cpus=3, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


def run(
    folder: Path,
    *,
    lanes: int | None = 1,
    local: bool = False,
    stop: EarlyStopping | None = None,
    file: io.StringIO | None = None,
    **axes,
) -> Results:
    """Run a grid around BASE to its end; `file` gets what the console shows."""
    fixed = {name: value for name, value in axes.items() if not isinstance(value, tuple)}
    base = TrialConfig(**{**{name: getattr(BASE, name) for name in BASE.__slots__}, **fixed})
    varied = {name: value for name, value in axes.items() if isinstance(value, tuple)}
    experiment = Experiment(name="grid", base=base, axes=varied, early_stopping=stop)
    console = Console(file=file or io.StringIO())
    assert (
        runner.run_experiment(
            experiment, RunOptions(out=str(folder), lanes=lanes, local=local), console
        )
        == 0
    )
    return read_results(folder)


def test_lanes_side_by_side_give_the_rows_of_the_local_twin(tmp_path):
    axes = {"batch_size": (32, 64), "freeze": ("none", "features")}
    on_lanes = run(tmp_path / "lanes", lanes=2, **axes)
    assert on_lanes.trials["status"].tolist() == ["completed"] * 4
    assert on_lanes.trials["test_accuracy"].notna().all()
    same(on_lanes, run(tmp_path / "local", local=True, **axes))


def test_more_epochs_on_lanes_go_on_from_shorter_trials_as_those_of_the_twin_do(tmp_path):
    axes = {
        "learning_rate": (1e-3, 1e-9, 2e-9),
        "freeze": ("none", "features"),
        "stop": EarlyStopping(grace_period=1),
    }
    for epochs in (2, 4):
        on_lanes = run(tmp_path / "lanes", epochs=epochs, **axes)
        twin = run(tmp_path / "local", epochs=epochs, local=True, **axes)
    assert on_lanes.trials["continued_from"].notna().sum() >= 4, (
        "frozen ones, and those that were stopped"
    )
    same(on_lanes, twin)


def test_a_stopped_trial_frees_its_lane_at_its_rung_and_the_twin_stops_it_too(tmp_path):
    rule = EarlyStopping(grace_period=1, reduction_factor=2)
    axes = {
        "learning_rate": (1e-3, 1e-9, 2e-9),
        "seed": (4, 7),
        "epochs": 4,
    }  # those with the large steps come first
    on_lanes = run(tmp_path / "lanes", lanes=1, stop=rule, **axes)
    stopped = on_lanes.trials[on_lanes.trials["status"] == "stopped"]
    assert len(stopped) >= 2
    assert set(stopped["epochs_run"]) <= {1, 2}, (
        "a lane that isn't freed at once would have trained on past the rung"
    )
    assert stopped["test_accuracy"].isna().all()
    assert (on_lanes.trials["status"] == "completed").any()
    same(on_lanes, run(tmp_path / "local", local=True, stop=rule, **axes))


def test_a_trial_whose_patience_ends_where_it_would_be_stopped_is_completed_for_console_and_table(
    tmp_path,
):
    fixed = {
        "freeze": "layer4",
        "epochs": 4,
        "patience": 1,
        "stop": EarlyStopping(grace_period=2),
    }  # no BatchNorm to change
    run(tmp_path, learning_rate=(1e-2,), **fixed)
    row = run(
        tmp_path, learning_rate=(1e-2, 1e-12), file=(file := io.StringIO()), **fixed
    ).trials.iloc[1]
    assert (row["status"], row["epochs_run"], row["out_of_patience"]) == ("completed", 2, True)
    told = [
        line.split(": ")[1]
        for line in file.getvalue().splitlines()
        if "learning_rate=1e-12: " in line
    ]
    assert "stopped" in told, "it wasn't to be stopped, so this test shows nothing"
    assert told[-1] == "completed"


def test_no_trial_is_stopped_for_the_scores_of_another_cohort():
    scores = [
        (size, seed, (size == 64) + seed * 7 % 20 / 20) for seed in range(20) for size in (32, 64)
    ]
    together, alone = decisions(scores), decisions([row for row in scores if row[0] == 32])
    assert [
        decision for (size, *_), decision in zip(scores, together, strict=True) if size == 32
    ] == alone
    assert set(alone) == {"CONTINUE", "STOP"}


def decisions(scores: list[tuple[int, int, float]]) -> list[str]:
    """The decisions on trials with a batch size, a seed and a score, one after another; batch sizes don't compete."""
    rule = EarlyStopping(grace_period=1, compare_within=("batch_size",))
    cohorts, told = CohortScheduler(rule, [], start_coordinator(len(scores))), []
    for number, (size, seed, score) in enumerate(scores):
        trial = SimpleNamespace(
            trial_id=str(number),
            config={"trial": encode_trial(TrialConfig(batch_size=size, seed=seed))},
        )
        cohorts.on_trial_add(None, trial)
        told.append(cohorts.on_trial_result(None, trial, {"epoch": 1, "val_accuracy": score}))
    return told


def test_two_workers_of_a_lane_train_as_one_does(tmp_path):
    """BatchNorm is frozen here; losses agree to 1e-4, since sums are in another order."""
    axes = {"freeze": ("layer4", "features"), "epochs": 2}
    one, two = (run(tmp_path / str(workers), workers=workers, **axes) for workers in (1, 2))
    for column in ("train_loss", "train_accuracy", "val_loss", "val_accuracy"):
        assert two.epochs[column].to_numpy() == pytest.approx(
            one.epochs[column].to_numpy(), rel=1e-4
        )
    assert len(two.predictions) == len(one.predictions)
    assert not two.predictions.duplicated(["key", "subset", "image"]).any(), (
        "an image was counted twice"
    )


def test_running_again_does_only_what_is_missing(tmp_path):
    first = run(tmp_path, batch_size=(32,))
    more = run(tmp_path, batch_size=(32, 64))
    assert more.trials["batch_size"].tolist() == [32, 64]
    assert more.trials["train_seconds"][0] == first.trials["train_seconds"][0], (
        "the first trial was run again"
    )
    assert more.manifest["complete"]
