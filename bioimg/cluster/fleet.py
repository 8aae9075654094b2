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

from bioimg.cluster import lanes, session
from bioimg.config import UserError

IN_VAIN = 3
"""How many lanes in a row may be lost before they took a trial: after that, starting another won't help."""
PAUSE = 0.5
"""Seconds between two checks of the cluster."""
SILENT = 60
"""Seconds after which a board that doesn't answer is taken to hang."""
SETTLING = 10.0
"""Seconds in which a new lane takes its devices: until then a request for more could get those very devices."""


class Fleet:
    """Keeps lanes running until every trial has ended. Its owner calls `tend` again and again.

    A lane is never moved or repaired: one that is lost, for whatever reason, is replaced once there are devices for it.
    """

    def __init__(self, first: lanes.Lane, *, trials: int, limit: int | None, say: Callable[[str], None]) -> None:
        """Lanes are like `first`; there are at most `limit` of them, and `say` is called when none can run."""
        self._first, self._limit, self._say = first, limit, say
        self._board: Any = first.board
        self._running: list[Future[None]] = []
        self._wishes: list[PlacementGroup] = []
        self._reach = limit or session.devices()[1] // first.workers
        self._left, self._started, self._next, self._settled = trials, 0, 0.0, 0.0
        self._waits = False

    def __enter__(self) -> "Fleet":
        self.tend()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            wait(self._running, timeout=5)
        if ray.is_initialized():
            self._wish(0)

    @property
    def size(self) -> int:
        """How many lanes there are."""
        return len(self._running)

    @property
    def done(self) -> bool:
        """Whether every trial has ended, as of the last check."""
        return self._left == 0

    def tend(self) -> None:
        """Count trials, lanes and devices, and start the lanes that are missing.

        Raises:
            UserError: the board is lost, results can't be written, or lanes end before they take a trial.
            Lost: as `session.check`.
        """
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + PAUSE
        session.check()
        self._left, in_vain = self._state()
        lost = [error for lane in self._running if lane.done() and (error := lane.exception())]
        self._running = [lane for lane in self._running if not lane.done()]
        if full := next(filter(None, map(lanes.unwritable, lost)), None):
            raise full
        if lost and not self._running and in_vain >= IN_VAIN and not _is_late(lost[-1]):
            raise UserError(
                f"{in_vain} lanes in a row ended before they could take a trial, the last one with: {lanes.cause(lost[-1])}. "
                "Fix that, then run the same command again to resume."
            ) from lost[-1]
        wanted, room = min(self._left, self._limit or self._left), self._room()
        self._start(min(wanted, room) - len(self._running))
        self._wish(max(0, min(wanted, self._reach) - max(room, len(self._running))))
        self._tell()

    def _state(self) -> tuple[int, int]:
        try:
            return ray.get(self._board.state.remote(), timeout=SILENT)
        except (RayActorError, GetTimeoutError) as error:
            ray.kill(self._board)  # if it hangs, calls that wait for it now fail
            raise UserError(
                "the board, the process between Ray Tune and the lanes, was lost: it was killed, hangs, or its machine ran out "
                "of memory. All reported epochs are saved; run the same command again to resume."
            ) from error

    def _room(self) -> int:
        """How many lanes the cluster can have at the moment."""
        return session.slots(lanes.resources(self._first.gpu)) // self._first.workers

    def _start(self, count: int) -> None:
        for _ in range(count):
            self._running.append(lanes.start(dataclasses.replace(self._first, number=self._started)))
            self._started += 1
            self._settled = time.monotonic() + SETTLING

    def _wish(self, count: int) -> None:
        """Have an autoscaler, if there is one, add machines for so many more lanes.

        A wish is a placement group for which there is no room yet. Unlike `request_resources`, it works even if not all wishes
        can be met, and it ends with this program, however that ends: no machine stays for a program that was killed.
        """
        met = any(placement_group_table(wish)["state"] == "CREATED" for wish in self._wishes)
        if met or count != len(self._wishes):
            for wish in self._wishes:
                remove_placement_group(wish)
            calm = not met and time.monotonic() >= self._settled
            bundles = [lanes.resources(self._first.gpu)] * self._first.workers
            self._wishes = [placement_group(bundles) for _ in range(count if calm else 0)]

    def _tell(self) -> None:
        waits = self._left > 0 and not self._running
        if waits and not self._waits:
            self._say(
                f"{self._left} trials are waiting: no lane can run until the cluster has {self._first.workers} free "
                f"{'GPU' if self._first.gpu else 'CPU'}{'s' if self._first.workers > 1 else ''}."
            )
        self._waits = waits


def _is_late(error: BaseException) -> bool:
    """Whether a lane ended because others hold the devices that it was meant to have."""
    return isinstance(error, ControllerError) and "Timeout" in type(error.controller_failure).__name__
