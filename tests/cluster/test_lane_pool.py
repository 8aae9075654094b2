"""How many lanes a pool starts, without Ray: what it calls of the cluster is set here."""

from concurrent.futures import Future

import pytest

from bioimg.cluster import lane_pool
from bioimg.cluster.coordinator import CoordinatorState
from bioimg.cluster.lane_pool import LanePool
from bioimg.cluster.lanes import LaneSpec

MINUTE_S = 60.0


class CoordinatorStub:
    """Answers as if this many lanes had been ready."""

    def __init__(self) -> None:
        self.ready_lanes = 0

    def state(self, timeout: float) -> CoordinatorState:
        return CoordinatorState(trials_left=9, idle_losses=0, ready_lanes=self.ready_lanes)

    def take_messages(self) -> list[str]:
        return []


@pytest.fixture
def coordinator():
    return CoordinatorStub()


@pytest.fixture
def make_pool(coordinator, monkeypatch):
    monkeypatch.setattr(lane_pool, "POLL_INTERVAL_S", 0.0)
    monkeypatch.setattr(lane_pool.lanes, "start_lane", lambda spec: Future())

    def make(*, cores: int, device_count: int, lead_s: float = MINUTE_S) -> LanePool:
        monkeypatch.setattr(lane_pool.os, "cpu_count", lambda: cores)
        monkeypatch.setattr(lane_pool, "FIRST_LANE_LEAD_S", lead_s)
        monkeypatch.setattr(lane_pool.devices, "count_worker_slots", lambda needs: device_count)
        spec = LaneSpec(
            number=0,
            workers=1,
            gpus_per_worker=0.0,
            coordinator=coordinator,  # type: ignore[arg-type]
            dataset_refs={},
            experiment_name="pool",
            results_folder="",
            session_id=None,
            working_dir="",
            rungs_by_epochs={},
            auto_precision="float32",
        )
        return LanePool(spec, trials=9, max_lanes=device_count, on_message=pytest.fail)

    return make


def test_first_lane_starts_alone_where_lanes_would_share_cores(make_pool, coordinator):
    pool = make_pool(cores=3, device_count=2)
    pool.reconcile()
    pool.reconcile()
    assert pool.size == 1
    coordinator.ready_lanes = 1
    pool.reconcile()
    assert pool.size == 2


def test_other_lanes_do_not_wait_for_a_first_one_that_is_late(make_pool):
    pool = make_pool(cores=1, device_count=4, lead_s=0.0)
    pool.reconcile()
    assert pool.size == 4


def test_lanes_start_together_where_there_are_cores_for_all(make_pool):
    pool = make_pool(cores=8, device_count=4)
    pool.reconcile()
    assert pool.size == 4
