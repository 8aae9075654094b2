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

from bioimg.experiment import StopReason


@dataclass
class Job:
    """A trial on the board. `attempts` counts the lanes that took it, starting from the last one that completed an epoch."""

    key: str
    trial: dict[str, Any]
    attempts: int = 0
    loss_reason: str = ""
    """Why the last lane that had it was lost."""


@dataclass(frozen=True)
class TrialEnded:
    """The last report of a trial."""

    status: str


@dataclass
class _Mailbox:
    """The messages about a trial: reports that wait for an answer, the last epoch reported, and the last one answered."""

    reports: deque[dict[str, Any] | TrialEnded] = field(default_factory=deque)
    last_reported: int = 0
    last_acknowledged: int = 0


class Coordinator:
    """Knows which trials wait and which lane has which, but not what a trial is. `trials` is how many there will be."""

    def __init__(self, trials: int) -> None:
        self._remaining = trials
        self._queue: deque[Job] = deque()
        self._job_by_lane: dict[int, Job] = {}
        self._mailboxes: defaultdict[str, _Mailbox] = defaultdict(_Mailbox)
        self._submitted_keys: set[str] = set()
        self._stop_reasons: dict[str, StopReason] = {}
        self._lost_lanes: set[int] = set()
        self._idle_losses = 0
        self._errors_by_lane: defaultdict[int, dict[int, str]] = defaultdict(dict)
        self._state_changed = asyncio.Condition()

    async def submit(self, key: str, trial: dict[str, Any]) -> None:
        """Put a trial on the board, unless it is here already."""
        if key not in self._submitted_keys:
            self._submitted_keys.add(key)
            self._queue.append(Job(key, trial))
            await self._notify()

    async def next_trial(self, lane: int) -> Job | None:
        """The next trial for a lane; None when all remaining ones are taken, or the lane has been given up."""
        await self._wait_for(
            lambda: (
                self._queue or self._remaining == len(self._job_by_lane) or lane in self._lost_lanes
            )
        )
        if lane in self._lost_lanes or not self._queue:
            return None
        self._idle_losses = 0
        job = self._job_by_lane[lane] = self._queue.popleft()
        job.attempts += 1
        return job

    async def report_epoch(self, lane: int, epoch: dict[str, Any], wait: bool) -> StopReason | None:
        """Pass an epoch on to Tune. Returns why to stop, if so: as known now or, with `wait`, once Tune has decided on it."""
        job = self._assigned_job(lane)
        talk, number = self._mailboxes[job.key], epoch["epoch"]
        if number > talk.last_reported:  # a lane that resumes a trial first reports where it stands
            talk.last_reported, job.attempts = number, 1
            talk.reports.append(epoch)
            await self._notify()
        if wait:
            await self._wait_for(
                lambda: job.key in self._stop_reasons or talk.last_acknowledged >= number
            )
        why = self._stop_reasons.get(job.key)
        return (
            why if why and number >= why.stopped_at_rung else None
        )  # if it started over, it has yet to come there

    async def end_trial(self, lane: int, status: str) -> None:
        """A lane has ended its trial."""
        job = self._assigned_job(lane)
        del self._job_by_lane[lane]
        self._remaining -= 1
        self._mailboxes[job.key].reports.append(TrialEnded(status))
        await self._notify()

    async def mark_lane_lost(self, lane: int, reason: str) -> None:
        """A lane is lost: its trial is the next one that another lane takes."""
        self._lost_lanes.add(lane)
        job = self._job_by_lane.pop(lane, None)
        if job:
            job.loss_reason = reason
            self._queue.appendleft(job)
        else:
            self._idle_losses += 1
        await self._notify()

    async def all_raised_same_error(
        self, lane: int, rank: int, workers: int, error: str, within: float
    ) -> bool:
        """Whether all workers of a lane raised the same error, once each has reported or `within` seconds have passed."""
        raised = self._errors_by_lane[lane]
        raised[rank] = error
        await self._notify()
        try:
            await asyncio.wait_for(self._wait_for(lambda: len(raised) == workers), within)
        except TimeoutError:
            return False
        return len(set(raised.values())) == 1

    async def wait_until_idle(self, lane: int) -> None:
        """Returns when a lane has no trial."""
        await self._wait_for(lambda: lane not in self._job_by_lane)

    async def next_report(self, key: str) -> dict[str, Any] | TrialEnded:
        """The oldest report of a trial that has no answer."""
        talk = self._mailboxes[key]
        await self._wait_for(lambda: talk.reports)
        return talk.reports[0]

    async def stop_trial(self, key: str, why: StopReason) -> None:
        """Tune stops a trial. A lane still has it, and leaves its row."""
        self._stop_reasons[key] = why
        await self._notify()

    async def acknowledge(self, key: str, epoch: int) -> None:
        """Tune has received an epoch of a trial and lets it continue."""
        talk = self._mailboxes[key]
        if epoch > talk.last_acknowledged:
            talk.last_acknowledged = epoch
            talk.reports.popleft()
        await self._notify()

    async def state(self) -> tuple[int, int]:
        """How many trials haven't ended, and how many lanes in a row were lost before they took any."""
        return self._remaining, self._idle_losses

    def _assigned_job(self, lane: int) -> Job:
        if lane not in self._job_by_lane:
            raise LookupError(f"lane {lane} was given up")
        return self._job_by_lane[lane]

    async def _wait_for(self, holds: Callable[[], object]) -> None:
        async with self._state_changed:
            await self._state_changed.wait_for(holds)

    async def _notify(self) -> None:
        async with self._state_changed:
            self._state_changed.notify_all()


def start_coordinator(trials: int) -> Any:
    """A board in an actor of its own, which needs no device and stays on this machine, since others come and go."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return (
        ray.remote(Coordinator)
        .options(num_cpus=0, max_concurrency=1000, scheduling_strategy=here)
        .remote(trials)
    )
