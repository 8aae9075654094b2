"""Several lanes on one GPU. Ray schedules GPUs that it is told of, on machines without one, too."""

import dataclasses
import functools
import os
from collections.abc import Iterator

import pytest
import ray
from ray.util import placement_group

from bioimg.cluster import devices, lanes, open_lanes
from bioimg.errors import UserError
from support import cpu_lanes, toys
from support.experiments import grid_experiment, run_experiment
from support.results import assert_same_results


@pytest.fixture
def one_gpu(monkeypatch) -> None:
    """Let this machine seem to have 12 CPU cores and a GPU."""
    monkeypatch.setattr(devices, "count_local_devices", lambda: ("GPU", 1))
    monkeypatch.setattr(os, "cpu_count", lambda: 12)


@pytest.fixture
def ray_with_gpu(no_ray, one_gpu, monkeypatch) -> Iterator[None]:
    """Let Ray start with a GPU, on which lanes train on the CPU."""
    monkeypatch.setattr(ray, "init", functools.partial(ray.init, num_cpus=12, num_gpus=1))
    # a number that no GPU has, so that torch sees none
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "99")
    yield
    ray.shutdown()


@pytest.mark.parametrize(
    ("lane_count", "gpus", "share"),
    [(1, 1, 1.0), (2, 1, 0.5), (3, 2, 0.5), (2, 4, 1.0), (3, 1, 0.3333), (10, 1, 0.1)],
)
def test_lanes_share_gpus_if_they_are_more(lane_count, gpus, share):
    assert devices.share_of_gpu(lane_count, gpus) == share


def test_lanes_on_one_gpu_are_allowed_up_to_the_number_of_cores(one_gpu):
    trials = [toys.trial()]
    devices.check_workers(trials, 12, is_cluster=False)
    message = r"`lanes` is 13, but must be at most the number of CPU cores, which is 12: .*Lower it"
    with pytest.raises(UserError, match=message):
        devices.check_workers(trials, 13, is_cluster=False)


def test_workers_of_one_trial_do_not_share_a_gpu(one_gpu):
    message = (
        r"`workers` \(2\) times `lanes` \(3\) is 6, but must be at most the number of GPUs, which "
        r"is 1: only lanes of one worker can share a GPU.*Lower one of the two"
    )
    with pytest.raises(UserError, match=message):
        devices.check_workers([toys.trial(workers=2)], 3, is_cluster=False)


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore")
def test_ray_has_room_for_all_lanes_that_share_a_gpu(ray_with_gpu):
    ray.init(address="local", log_to_driver=False, logging_level="ERROR")
    for lane_count in range(1, 13):
        worker = lanes.worker_resources(devices.share_of_gpu(lane_count, 1))
        assert devices.count_worker_slots(worker) == lane_count
        groups = [placement_group([worker]) for _ in range(lane_count)]
        ray.get([group.ready() for group in groups], timeout=60)
        for group in groups:
            ray.util.remove_placement_group(group)


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore")
def test_two_lanes_train_on_one_gpu_at_the_same_time(ray_with_gpu, tmp_path):
    experiment = grid_experiment(seed=(0, 1, 2))
    experiment = dataclasses.replace(experiment, name=cpu_lanes.Name("grid"))
    results = run_experiment(experiment, tmp_path / "lanes", lanes=2)
    local = run_experiment(grid_experiment(seed=(0, 1, 2)), tmp_path / "local", local=True)
    assert_same_results(results, local)


def test_lanes_of_a_cluster_wait_for_machines_and_do_not_share(monkeypatch):
    monkeypatch.setattr(open_lanes.ray_session, "join_cluster", lambda: True)
    monkeypatch.setattr(devices, "count_devices", lambda: ("GPU", 1))
    monkeypatch.setattr(open_lanes.ray_session, "start_local_ray", lambda **options: None)
    options = open_lanes.RunOptions(lanes=3)
    executor = open_lanes.open_lanes([toys.trial()], options, lambda out: None)
    assert executor.gpus_per_worker == 1.0
