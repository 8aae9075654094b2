"""The board: trials wait on it for a lane, and the lanes' reports on them wait for Tune.

    Tune trial                board                        lane
    submit(trial)  ------->   queue            ------->    take()
    next(key)      <-------   reports of a key <-------    report(key, epoch)
    go_on(key), stop(key, why)  --->  answers  ------->       ... returns why to stop, if so

It is an asyncio actor: a call for something that isn't there yet waits, without polling. Callers may die at any moment: a
report stays until it is answered, and calls of a lane that was given up are refused.
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from bioimg.experiment import Stop


@dataclass
class Job:
    """A trial on the board. `attempts` counts the lanes that took it, starting from the last one that completed an epoch."""

    key: str
    trial: dict[str, Any]
    attempts: int = 0
    reason: str = ""
    """Why the last lane that had it was lost."""


@dataclass(frozen=True)
class Ended:
    """The last report of a trial."""

    status: str


@dataclass
class _Talk:
    """The messages about a trial: reports that wait for an answer, the last epoch reported, and the last one answered."""

    reports: deque[dict[str, Any] | Ended] = field(default_factory=deque)
    latest: int = 0
    answered: int = 0


class Board:
    """Knows which trials wait and which lane has which, but not what a trial is. `trials` is how many there will be."""

    def __init__(self, trials: int) -> None:
        self._left = trials
        self._waiting: deque[Job] = deque()
        self._taken: dict[int, Job] = {}
        self._talks: defaultdict[str, _Talk] = defaultdict(_Talk)
        self._submitted: set[str] = set()
        self._stopped: dict[str, Stop] = {}
        self._lost: set[int] = set()
        self._in_vain = 0
        self._raised: defaultdict[int, dict[int, str]] = defaultdict(dict)
        self._changed = asyncio.Condition()

    async def submit(self, key: str, trial: dict[str, Any]) -> None:
        """Put a trial on the board, unless it is here already."""
        if key not in self._submitted:
            self._submitted.add(key)
            self._waiting.append(Job(key, trial))
            await self._notify()

    async def take(self, lane: int) -> Job | None:
        """The next trial for a lane; None when all remaining ones are taken, or the lane has been given up."""
        await self._until(lambda: self._waiting or self._left == len(self._taken) or lane in self._lost)
        if lane in self._lost or not self._waiting:
            return None
        self._in_vain = 0
        job = self._taken[lane] = self._waiting.popleft()
        job.attempts += 1
        return job

    async def report(self, lane: int, epoch: dict[str, Any], wait: bool) -> Stop | None:
        """Pass an epoch on to Tune. Returns why to stop, if so: as known now or, with `wait`, once Tune has decided on it."""
        job = self._held(lane)
        talk, number = self._talks[job.key], epoch["epoch"]
        if number > talk.latest:  # a lane that resumes a trial first reports where it stands
            talk.latest, job.attempts = number, 1
            talk.reports.append(epoch)
            await self._notify()
        if wait:
            await self._until(lambda: job.key in self._stopped or talk.answered >= number)
        why = self._stopped.get(job.key)
        return why if why and number >= why.stopped_at_rung else None  # if it started over, it has yet to come there

    async def end(self, lane: int, status: str) -> None:
        """A lane has ended its trial."""
        job = self._held(lane)
        del self._taken[lane]
        self._left -= 1
        self._talks[job.key].reports.append(Ended(status))
        await self._notify()

    async def give_back(self, lane: int, reason: str) -> None:
        """A lane is lost: its trial is the next one that another lane takes."""
        self._lost.add(lane)
        job = self._taken.pop(lane, None)
        if job:
            job.reason = reason
            self._waiting.appendleft(job)
        else:
            self._in_vain += 1
        await self._notify()

    async def alike(self, lane: int, rank: int, workers: int, error: str, within: float) -> bool:
        """Whether all workers of a lane raised the same error, once each has reported or `within` seconds have passed."""
        raised = self._raised[lane]
        raised[rank] = error
        await self._notify()
        try:
            await asyncio.wait_for(self._until(lambda: len(raised) == workers), within)
        except TimeoutError:
            return False
        return len(set(raised.values())) == 1

    async def ended(self, lane: int) -> None:
        """Returns when a lane has no trial."""
        await self._until(lambda: lane not in self._taken)

    async def next(self, key: str) -> dict[str, Any] | Ended:
        """The oldest report of a trial that has no answer."""
        talk = self._talks[key]
        await self._until(lambda: talk.reports)
        return talk.reports[0]

    async def stop(self, key: str, why: Stop) -> None:
        """Tune stops a trial. A lane still has it, and leaves its row."""
        self._stopped[key] = why
        await self._notify()

    async def go_on(self, key: str, epoch: int) -> None:
        """Tune has received an epoch of a trial and lets it continue."""
        talk = self._talks[key]
        if epoch > talk.answered:
            talk.answered = epoch
            talk.reports.popleft()
        await self._notify()

    async def state(self) -> tuple[int, int]:
        """How many trials haven't ended, and how many lanes in a row were lost before they took any."""
        return self._left, self._in_vain

    def _held(self, lane: int) -> Job:
        if lane not in self._taken:
            raise LookupError(f"lane {lane} was given up")
        return self._taken[lane]

    async def _until(self, holds: Callable[[], object]) -> None:
        async with self._changed:
            await self._changed.wait_for(holds)

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()


def open_board(trials: int) -> Any:
    """A board in an actor of its own, which needs no device and stays on this machine, since others come and go."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(Board).options(num_cpus=0, max_concurrency=1000, scheduling_strategy=here).remote(trials)
