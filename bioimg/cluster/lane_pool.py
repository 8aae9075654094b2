"""The lane pool: as many lanes as trials need and devices allow, while both change."""

import dataclasses
import time
from collections.abc import Callable
from concurrent.futures import Future, wait

import ray
from ray.util import placement_group, placement_group_table, remove_placement_group
from ray.util.placement_group import PlacementGroup

from bioimg.cluster import devices, lanes, ray_session
from bioimg.cluster.ray_private import waited_too_long_for_devices
from bioimg.errors import UserError

MAX_IDLE_LOSSES = 3
"""Lanes in a row that may be lost before they took a trial. After that, another won't help."""
POLL_INTERVAL_S = 0.5
"""Seconds between two checks of the cluster."""
COORDINATOR_TIMEOUT_S = 60
"""Seconds after which a coordinator that doesn't answer is taken to hang."""
START_GRACE_S = 10.0
"""Seconds in which a new lane takes its devices. A request for capacity could take them from it."""
EXIT_GRACE_S = 5
"""Seconds in which lanes without trials end by themselves."""


class LanePool:
    """Keep lanes running until every trial has ended. Its owner calls `reconcile` regularly.

    A lane is never moved or repaired. One that is lost, for whatever reason, is replaced once there
    are devices for it.
    """

    def __init__(
        self,
        lane_spec: lanes.LaneSpec,
        *,
        trials: int,
        max_lanes: int | None,
        on_message: Callable[[str], None],
    ) -> None:
        """Prepare a pool of lanes like `lane_spec`, by default as many as there are devices for.

        `on_message` is called with what lanes have to say, and when no lane can run.
        """
        self._lane_spec = lane_spec
        self._max_lanes = max_lanes
        self._on_message = on_message
        self._max_reachable_lanes = max_lanes or devices.count_devices()[1] // lane_spec.workers
        self._lane_futures: list[Future[None]] = []
        self._capacity_requests: list[PlacementGroup] = []
        self._trials_left = trials
        self._started_count = 0
        self._next_check_at = 0.0
        self._grace_ends_at = 0.0
        self._is_waiting = False

    def __enter__(self) -> "LanePool":
        self.reconcile()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            wait(self._lane_futures, timeout=EXIT_GRACE_S)
        if ray.is_initialized():
            self._request_capacity(0)

    @property
    def size(self) -> int:
        """Number of lanes."""
        return len(self._lane_futures)

    @property
    def is_done(self) -> bool:
        """True if every trial had ended at the last check."""
        return self._trials_left == 0

    def reconcile(self) -> None:
        """Count trials, lanes and devices, and start the lanes that are missing.

        Called more often than every `POLL_INTERVAL_S` seconds, it does nothing.

        Raises:
            UserError: the coordinator is lost, results can't be written, or lanes end before they
                take a trial.
            RayLostError: as `ray_session.check_ray_alive`.
        """
        if time.monotonic() < self._next_check_at:
            return
        self._next_check_at = time.monotonic() + POLL_INTERVAL_S
        ray_session.check_ray_alive()
        self._trials_left, idle_losses = self._lane_spec.coordinator.state(COORDINATOR_TIMEOUT_S)
        for text in self._lane_spec.coordinator.take_messages():
            self._on_message(text)
        self._drop_ended_lanes(idle_losses)

        wanted = min(self._trials_left, self._max_lanes or self._trials_left)
        possible = self._lanes_possible_now()
        self._start_lanes(min(wanted, possible) - self.size)
        reachable = min(wanted, self._max_reachable_lanes)
        self._request_capacity(max(0, reachable - max(possible, self.size)))
        self._announce_waiting()

    def _drop_ended_lanes(self, idle_losses: int) -> None:
        """Forget lanes that have ended, unless the reason also affects those that would follow."""
        ended = [lane for lane in self._lane_futures if lane.done()]
        self._lane_futures = [lane for lane in self._lane_futures if not lane.done()]
        errors = [error for lane in ended if (error := lane.exception())]
        for error in errors:
            if storage_error := lanes.find_storage_error(error):
                raise storage_error
        if not errors or self._lane_futures or idle_losses < MAX_IDLE_LOSSES:
            return
        # others may hold the devices that the lane was meant to have, and release them later
        if not waited_too_long_for_devices(errors[-1]):
            raise UserError(
                f"{idle_losses} lanes in a row ended before they could take a trial, the last one "
                f"with: {lanes.describe_failure(errors[-1])}. "
                "Fix that, then run the same command again to resume."
            ) from errors[-1]

    def _lanes_possible_now(self) -> int:
        """Return how many lanes the cluster has devices for at the moment."""
        resources = lanes.worker_resources(self._lane_spec.gpus_per_worker)
        return devices.count_worker_slots(resources) // self._lane_spec.workers

    def _start_lanes(self, count: int) -> None:
        for _ in range(count):
            spec = dataclasses.replace(self._lane_spec, number=self._started_count)
            self._lane_futures.append(lanes.start_lane(spec))
            self._started_count += 1
            self._grace_ends_at = time.monotonic() + START_GRACE_S

    def _request_capacity(self, count: int) -> None:
        """Have an autoscaler, if there is one, add machines for this many more lanes.

        A request is a placement group for which there is no room yet. Unlike `request_resources`,
        it works even if not all requests can be met. It also ends with this program, however that
        ends, so no machine is kept for a program that was killed.
        """
        is_met = any(
            placement_group_table(request)["state"] == "CREATED"
            for request in self._capacity_requests
        )
        if not is_met and count == len(self._capacity_requests):
            return
        for request in self._capacity_requests:
            remove_placement_group(request)
        self._capacity_requests = []
        # the devices of a met request are for a lane, which must not lose them to another request
        if not is_met and time.monotonic() >= self._grace_ends_at:
            worker = lanes.worker_resources(self._lane_spec.gpus_per_worker)
            bundles = [worker] * self._lane_spec.workers
            self._capacity_requests = [placement_group(bundles) for _ in range(count)]

    def _announce_waiting(self) -> None:
        is_waiting = self._trials_left > 0 and not self._lane_futures
        if is_waiting and not self._is_waiting:
            device = "GPU" if self._lane_spec.gpus_per_worker else "CPU"
            plural = "s" if self._lane_spec.workers > 1 else ""
            self._on_message(
                f"{self._trials_left} trials are waiting: no lane can run until the cluster has "
                f"{self._lane_spec.workers} free {device}{plural}."
            )
        self._is_waiting = is_waiting
