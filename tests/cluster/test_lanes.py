"""The whole program on a real Ray: lanes, Tune, the coordinator, DDP."""

import io
from pathlib import Path

import pytest

from bioimg.experiment import EarlyStopping
from bioimg.results.result_store import Results
from support.experiments import LENIENT_ALPHA, grid_experiment, run_experiment
from support.processes import COORDINATOR, actor_processes, wait_until
from support.results import assert_same_results

pytestmark = [
    pytest.mark.ray,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.usefixtures("shared_ray"),
]  # Ray's own warnings aren't ours to fix


def run(
    folder: Path,
    *,
    lanes: int | None = 1,
    local: bool = False,
    stop: EarlyStopping | None = None,
    console: io.StringIO | None = None,
    **fields,
) -> Results:
    """Run a grid around the base trial to its end; `console` gets what is printed."""
    experiment = grid_experiment(stop, **fields)
    return run_experiment(experiment, folder, console, lanes=lanes, local=local)


def test_two_lanes_give_the_rows_of_local(tmp_path):
    axes = {"batch_size": (32, 64), "freeze": ("none", "features")}
    on_lanes = run(tmp_path / "lanes", lanes=2, **axes)
    assert on_lanes.trials["status"].tolist() == ["completed"] * 4
    assert on_lanes.trials["test_accuracy"].notna().all()
    assert_same_results(on_lanes, run(tmp_path / "local", local=True, **axes))
    wait_until(lambda: not actor_processes(COORDINATOR), "the end of the coordinator")


def test_lane_says_how_long_features_will_take(tmp_path):
    console = io.StringIO()
    run(tmp_path, console=console, model="slow", image_size=16, freeze="features", epochs=1)
    assert console.getvalue().count("Features of slow: ") == 1


@pytest.mark.nightly
def test_longer_trials_on_lanes_continue_as_with_local(tmp_path):
    axes = {
        "learning_rate": (1e-3, 1e-9, 2e-9),
        "freeze": ("none", "features"),
        "stop": EarlyStopping(grace_period=1, alpha=LENIENT_ALPHA),
    }
    for epochs in (2, 4):
        on_lanes = run(tmp_path / "lanes", epochs=epochs, **axes)
        twin = run(tmp_path / "local", epochs=epochs, local=True, **axes)
    assert on_lanes.trials["continued_from"].notna().sum() >= 4, (
        "frozen trials and stopped ones must continue"
    )
    assert_same_results(on_lanes, twin)


def test_stopped_trial_frees_its_lane_at_its_rung(tmp_path):
    rule = EarlyStopping(grace_period=1, reduction_factor=2, alpha=LENIENT_ALPHA)
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
    assert_same_results(on_lanes, run(tmp_path / "local", local=True, stop=rule, **axes))


@pytest.mark.nightly
def test_patience_ending_at_a_rung_completes_the_trial(
    tmp_path,
):
    fixed = {
        "freeze": "layer4",
        "epochs": 4,
        "patience": 1,
        "stop": EarlyStopping(grace_period=2, alpha=LENIENT_ALPHA),
    }  # no BatchNorm to change
    run(tmp_path, learning_rate=(1e-2,), **fixed)
    row = run(
        tmp_path, learning_rate=(1e-2, 1e-12), console=(file := io.StringIO()), **fixed
    ).trials.iloc[1]
    assert (row["status"], row["epochs_run"], row["out_of_patience"]) == ("completed", 2, True)
    told = [
        line.split(": ")[1]
        for line in file.getvalue().splitlines()
        if "learning_rate=1e-12: " in line
    ]
    assert "stopped" in told, "it wasn't to be stopped, so this test shows nothing"
    assert told[-1] == "completed"


def test_two_workers_train_as_one_worker(tmp_path):
    """BatchNorm is frozen here. Losses agree to 1e-4, since sums are in another order."""
    axes = {"freeze": ("layer4", "features"), "epochs": 2, "score": "balanced_accuracy"}
    one, two = (run(tmp_path / str(workers), workers=workers, **axes) for workers in (1, 2))
    for column in ("train_loss", "train_accuracy", "val_loss", "val_score"):
        assert two.epochs[column].to_numpy() == pytest.approx(
            one.epochs[column].to_numpy(), rel=1e-4
        )
    assert len(two.predictions) == len(one.predictions)
    assert not two.predictions.duplicated(["key", "subset", "image"]).any(), (
        "an image was counted twice"
    )


@pytest.mark.nightly
def test_rerun_trains_only_missing_trials(tmp_path):
    first = run(tmp_path, batch_size=(32,))
    more = run(tmp_path, batch_size=(32, 64))
    assert more.trials["batch_size"].tolist() == [32, 64]
    assert more.trials["train_seconds"][0] == first.trials["train_seconds"][0], (
        "the first trial was run again"
    )
    assert more.manifest["complete"]
