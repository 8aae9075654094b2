"""The fleet: as many lanes as trials need and devices allow, while both change."""

import dataclasses
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError
from ray.train import ControllerError
from ray.util import placement_group, placement_group_table, remove_placement_group
from ray.util.placement_group import PlacementGroup

from bioimg.cluster import lanes, ray_session
from bioimg.errors import UserError

MAX_IDLE_LOSSES = 3
"""How many lanes in a row may be lost before they took a trial: after that, starting another won't help."""
POLL_INTERVAL_S = 0.5
"""Seconds between two checks of the cluster."""
COORDINATOR_TIMEOUT_S = 60
"""Seconds after which a board that doesn't answer is taken to hang."""
START_GRACE_S = 10.0
"""Seconds in which a new lane takes its devices: until then a request for more could get those very devices."""


class LanePool:
    """Keeps lanes running until every trial has ended. Its owner calls `tend` again and again.

    A lane is never moved or repaired: one that is lost, for whatever reason, is replaced once there are devices for it.
    """

    def __init__(
        self, first: lanes.LaneSpec, *, trials: int, limit: int | None, say: Callable[[str], None]
    ) -> None:
        """Lanes are like `first`; there are at most `limit` of them, and `say` is called when none can run."""
        self._lane_spec, self._max_lanes, self._on_message = first, limit, say
        self._coordinator: Any = first.coordinator
        self._lane_futures: list[Future[None]] = []
        self._capacity_requests: list[PlacementGroup] = []
        self._max_reachable_lanes = limit or ray_session.count_devices()[1] // first.workers
        self._trials_left, self._started_count, self._next_check_at, self._grace_ends_at = (
            trials,
            0,
            0.0,
            0.0,
        )
        self._is_waiting = False

    def __enter__(self) -> "LanePool":
        self.reconcile()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            wait(self._lane_futures, timeout=5)
        if ray.is_initialized():
            self._request_capacity(0)

    @property
    def size(self) -> int:
        """How many lanes there are."""
        return len(self._lane_futures)

    @property
    def is_done(self) -> bool:
        """Whether every trial has ended, as of the last check."""
        return self._trials_left == 0

    def reconcile(self) -> None:
        """Count trials, lanes and devices, and start the lanes that are missing.

        Raises:
            UserError: the board is lost, results can't be written, or lanes end before they take a trial.
            Lost: as `session.check`.
        """
        if time.monotonic() < self._next_check_at:
            return
        self._next_check_at = time.monotonic() + POLL_INTERVAL_S
        ray_session.check_ray_alive()
        self._trials_left, in_vain = self._query_coordinator()
        lost = [error for lane in self._lane_futures if lane.done() and (error := lane.exception())]
        self._lane_futures = [lane for lane in self._lane_futures if not lane.done()]
        if full := next(filter(None, map(lanes.find_storage_error, lost)), None):
            raise full
        if (
            lost
            and not self._lane_futures
            and in_vain >= MAX_IDLE_LOSSES
            and not _devices_were_taken(lost[-1])
        ):
            raise UserError(
                f"{in_vain} lanes in a row ended before they could take a trial, the last one with: {lanes.describe_failure(lost[-1])}. "
                "Fix that, then run the same command again to resume."
            ) from lost[-1]
        wanted, room = (
            min(self._trials_left, self._max_lanes or self._trials_left),
            self._lanes_possible_now(),
        )
        self._start_lanes(min(wanted, room) - len(self._lane_futures))
        self._request_capacity(
            max(0, min(wanted, self._max_reachable_lanes) - max(room, len(self._lane_futures)))
        )
        self._announce_waiting()

    def _query_coordinator(self) -> tuple[int, int]:
        try:
            return ray.get(self._coordinator.state.remote(), timeout=COORDINATOR_TIMEOUT_S)
        except (RayActorError, GetTimeoutError) as error:
            ray.kill(self._coordinator)  # if it hangs, calls that wait for it now fail
            raise UserError(
                "the board, the process between Ray Tune and the lanes, was lost: it was killed, hangs, or its machine ran out "
                "of memory. All reported epochs are saved; run the same command again to resume."
            ) from error

    def _lanes_possible_now(self) -> int:
        """How many lanes the cluster can have at the moment."""
        return (
            ray_session.count_worker_slots(lanes.worker_resources(self._lane_spec.gpu))
            // self._lane_spec.workers
        )

    def _start_lanes(self, count: int) -> None:
        for _ in range(count):
            self._lane_futures.append(
                lanes.start_lane(dataclasses.replace(self._lane_spec, number=self._started_count))
            )
            self._started_count += 1
            self._grace_ends_at = time.monotonic() + START_GRACE_S

    def _request_capacity(self, count: int) -> None:
        """Have an autoscaler, if there is one, add machines for so many more lanes.

        A wish is a placement group for which there is no room yet. Unlike `request_resources`, it works even if not all wishes
        can be met, and it ends with this program, however that ends: no machine stays for a program that was killed.
        """
        met = any(
            placement_group_table(wish)["state"] == "CREATED" for wish in self._capacity_requests
        )
        if met or count != len(self._capacity_requests):
            for wish in self._capacity_requests:
                remove_placement_group(wish)
            calm = not met and time.monotonic() >= self._grace_ends_at
            bundles = [lanes.worker_resources(self._lane_spec.gpu)] * self._lane_spec.workers
            self._capacity_requests = [
                placement_group(bundles) for _ in range(count if calm else 0)
            ]

    def _announce_waiting(self) -> None:
        waits = self._trials_left > 0 and not self._lane_futures
        if waits and not self._is_waiting:
            self._on_message(
                f"{self._trials_left} trials are waiting: no lane can run until the cluster has {self._lane_spec.workers} free "
                f"{'GPU' if self._lane_spec.gpu else 'CPU'}{'s' if self._lane_spec.workers > 1 else ''}."
            )
        self._is_waiting = waits


def _devices_were_taken(error: BaseException) -> bool:
    """Whether a lane ended because others hold the devices that it was meant to have."""
    return (
        isinstance(error, ControllerError) and "Timeout" in type(error.controller_failure).__name__
    )
