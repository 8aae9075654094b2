"""How trials end on lanes: stopped against earlier runs, or finished after an interruption."""

import io
import signal

import pytest

from bioimg.cluster import lane_pool
from bioimg.errors import UserError
from bioimg.results.result_store import ResultStore, read_results
from support.consoles import ActingConsole
from support.experiments import grid_experiment, run_experiment, stopping_experiment
from support.processes import COORDINATOR, signal_actor
from support.results import assert_same_results, stopped_keys

pytestmark = [
    pytest.mark.ray,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.usefixtures("shared_ray"),
]


@pytest.mark.nightly
def test_added_trials_compete_with_earlier_runs(tmp_path):
    in_order = tuple(
        trial.learning_rate
        for trial in stopping_experiment().in_run_order(stopping_experiment().trials())
    )
    run_experiment(stopping_experiment(in_order[:3]), tmp_path / "lanes", lanes=1)
    whole = run_experiment(stopping_experiment(), tmp_path / "whole", local=True)
    retried_key = next(
        key
        for key in stopped_keys(whole)
        if key not in read_results(tmp_path / "lanes").trials["key"].tolist()
    )
    ResultStore(tmp_path / "lanes").tables.write(
        "trials", retried_key, [{"key": retried_key, "status": "failed"}]
    )
    added = run_experiment(
        stopping_experiment(), tmp_path / "lanes", console := io.StringIO(), lanes=1
    )
    later = added.trials[
        added.trials["learning_rate"].isin(in_order[3:]) & added.trials["status"].eq("stopped")
    ]
    earlier_keys = added.trials.loc[added.trials["learning_rate"].isin(in_order[:3]), "key"]
    earlier_epochs = added.epochs[added.epochs["key"].isin(earlier_keys)]
    assert len(later) >= 2
    assert later["lost_to"].isin(earlier_epochs["key"]).any()
    assert console.getvalue().count(": stopped\n") == len(later), (
        "one of them failed in an earlier run"
    )
    assert_same_results(added, whole)


@pytest.mark.nightly
def test_interrupted_finish_on_lanes_resumes(tmp_path, monkeypatch):
    keys = tuple(
        stopped_keys(run_experiment(stopping_experiment(), tmp_path / "lanes", lanes=1))[:2]
    )
    console = ActingConsole(
        "epoch 3/4", tmp_path / "lanes", signal_actor(COORDINATOR, signal.SIGKILL)
    )
    with monkeypatch.context() as patches:
        # the next run's coordinator has its usual time to start
        patches.setattr(lane_pool, "COORDINATOR_TIMEOUT_S", 5)
        with pytest.raises(
            UserError, match=r"the coordinator.*was lost.*run the same command again to resume"
        ):
            run_experiment(stopping_experiment(), tmp_path / "lanes", console, lanes=1, finish=keys)
    assert len(console.before), "nothing was disturbed"
    finished = run_experiment(stopping_experiment(), tmp_path / "lanes", lanes=1, finish=keys)
    run_experiment(stopping_experiment(), tmp_path / "local", local=True)
    assert_same_results(
        finished, run_experiment(stopping_experiment(), tmp_path / "local", local=True, finish=keys)
    )


@pytest.mark.nightly
def test_file_missing_for_one_worker_keeps_both_together(tmp_path, monkeypatch):
    """A worker that failed alone must not ask for the next trial while the other waits for it."""
    monkeypatch.chdir(tmp_path)
    trials = run_experiment(
        grid_experiment(model="lonely", image_size=16, epochs=2, workers=2), tmp_path / "out"
    ).trials
    assert (tmp_path / "failed-once").exists()
    assert trials["status"].tolist() == ["completed"]
