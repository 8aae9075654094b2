"""The coordinator: an actor in which trials wait for a lane, and reports of lanes wait for Tune.

    Tune trial               coordinator                  lane
    submit(trial)  ------->  queue             ------->   next_trial()
    next_report()  <-------  reports of a key  <-------   report_epoch(epoch)
    acknowledge(), stop_trial(reason)  ----->  decisions  ----->  ... returns why to stop, or None

It runs on asyncio: a call waits, without polling, until it can be answered. A caller may die at any
moment, so a report stays until it is acknowledged, and a lane that was given up is refused.
Other processes call it through `CoordinatorClient`.
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from bioimg.config import TrialConfig
from bioimg.experiment import StopReason
from bioimg.results.schema import TrialStatus


@dataclass
class Job:
    """A trial that a lane has to train.

    `attempts` counts the lanes that took it since the last one that completed a new epoch.
    """

    key: str
    trial: TrialConfig
    attempts: int = 0
    loss_reason: str = ""
    """Why the last lane that had this trial was lost."""


@dataclass(frozen=True)
class TrialEnded:
    """The last report of a trial."""

    status: TrialStatus


class CoordinatorState(NamedTuple):
    """The numbers that the lane pool needs."""

    trials_left: int
    """Trials that haven't ended."""
    idle_losses: int
    """Lanes in a row that were lost before they took a trial."""


@dataclass
class _Mailbox:
    """The messages about one trial."""

    reports: deque[dict[str, Any] | TrialEnded] = field(default_factory=deque)
    """Reports that Tune hasn't acknowledged, oldest first."""
    last_reported: int = 0
    """The last epoch that a lane reported."""
    last_acknowledged: int = 0
    """The last epoch after which Tune let the trial continue."""


class Coordinator:
    """Assign trials to lanes, and pass reports and decisions between lanes and Tune.

    `trials` is the number of trials that will be submitted.
    """

    def __init__(self, trials: int) -> None:
        self._trials_left = trials
        self._queue: deque[Job] = deque()
        self._job_by_lane: dict[int, Job] = {}
        self._mailboxes: defaultdict[str, _Mailbox] = defaultdict(_Mailbox)
        self._submitted_keys: set[str] = set()
        self._stop_reasons: dict[str, StopReason] = {}
        self._lost_lanes: set[int] = set()
        self._devices_by_lane: dict[int, object] = {}
        self._idle_losses = 0
        self._errors_by_lane: defaultdict[int, dict[int, str]] = defaultdict(dict)
        self._messages: list[str] = []
        self._state_changed = asyncio.Condition()

    async def submit(self, key: str, trial: TrialConfig) -> None:
        """Queue a trial, unless it has been submitted before."""
        if key not in self._submitted_keys:
            self._submitted_keys.add(key)
            self._queue.append(Job(key, trial))
            await self._notify()

    async def register_lane(self, lane: int, devices: object) -> None:
        """Record what holds the devices of a lane."""
        self._devices_by_lane[lane] = devices

    async def next_trial(self, lane: int) -> Job | None:
        """Assign the next trial to a lane and return it.

        Return None if every trial that is left has a lane, or if this lane has been given up.
        """
        await self._wait_until(
            lambda: self._queue or self._every_trial_has_a_lane() or lane in self._lost_lanes
        )
        if lane in self._lost_lanes or not self._queue:
            return None
        self._idle_losses = 0
        job = self._queue.popleft()
        job.attempts += 1
        self._job_by_lane[lane] = job
        return job

    async def report_epoch(self, lane: int, epoch: dict[str, Any], wait: bool) -> StopReason | None:
        """Pass an epoch on to Tune and return why the trial must stop, or None.

        With `wait`, wait for Tune's decision on this epoch. Otherwise return what is known by now.
        """
        job = self._assigned_job(lane)
        mailbox = self._mailboxes[job.key]
        number = epoch["epoch"]
        # a lane that resumes a trial first reports an epoch that is known already
        if number > mailbox.last_reported:
            mailbox.last_reported = number
            job.attempts = 1
            mailbox.reports.append(epoch)
            await self._notify()
        if wait:
            await self._wait_until(
                lambda: job.key in self._stop_reasons or mailbox.last_acknowledged >= number
            )
        reason = self._stop_reasons.get(job.key)
        # a trial that started over still has to train up to the rung at which it is stopped
        if reason is None or number < reason.stopped_at_rung:
            return None
        return reason

    async def end_trial(self, lane: int, status: TrialStatus) -> None:
        """Record that a lane has ended its trial."""
        job = self._assigned_job(lane)
        del self._job_by_lane[lane]
        self._trials_left -= 1
        self._mailboxes[job.key].reports.append(TrialEnded(status))
        await self._notify()

    async def mark_lane_lost(self, lane: int, reason: str) -> object:
        """Give up a lane. If it has a trial, that trial is the next one that another lane gets.

        Return what holds the lane's devices, or None if it was lost before it was registered.
        """
        self._lost_lanes.add(lane)
        job = self._job_by_lane.pop(lane, None)
        if job:
            job.loss_reason = reason
            self._queue.appendleft(job)
        else:
            self._idle_losses += 1
        await self._notify()
        return self._devices_by_lane.pop(lane, None)

    async def all_raised_same_error(
        self, lane: int, rank: int, workers: int, error: str, timeout: float
    ) -> bool:
        """Record a worker's error and return True if all workers of its lane raised the same one.

        Wait until each worker has reported, but at most `timeout` seconds.
        """
        errors = self._errors_by_lane[lane]
        errors[rank] = error
        await self._notify()
        try:
            await asyncio.wait_for(self._wait_until(lambda: len(errors) == workers), timeout)
        except TimeoutError:
            return False
        return len(set(errors.values())) == 1

    async def wait_until_idle(self, lane: int) -> None:
        """Return when a lane has no trial."""
        await self._wait_until(lambda: lane not in self._job_by_lane)

    async def next_report(self, key: str) -> dict[str, Any] | TrialEnded:
        """Return a trial's oldest report that isn't acknowledged. It stays until it is."""
        mailbox = self._mailboxes[key]
        await self._wait_until(lambda: mailbox.reports)
        return mailbox.reports[0]

    async def stop_trial(self, key: str, reason: StopReason) -> None:
        """Record Tune's decision to stop a trial. Its lane then writes its row."""
        self._stop_reasons[key] = reason
        await self._notify()

    async def acknowledge(self, key: str, epoch: int) -> None:
        """Record that Tune has received an epoch of a trial and lets the trial continue."""
        mailbox = self._mailboxes[key]
        if epoch > mailbox.last_acknowledged:
            mailbox.last_acknowledged = epoch
            mailbox.reports.popleft()
        await self._notify()

    async def add_message(self, text: str) -> None:
        """Keep a message of a lane for the user."""
        self._messages.append(text)

    async def take_messages(self) -> list[str]:
        """Return the messages since the last call."""
        messages, self._messages = self._messages, []
        return messages

    async def state(self) -> CoordinatorState:
        """Return how many trials are left, and how many lanes in a row were lost while idle."""
        return CoordinatorState(self._trials_left, self._idle_losses)

    def _every_trial_has_a_lane(self) -> bool:
        return self._trials_left == len(self._job_by_lane)

    def _assigned_job(self, lane: int) -> Job:
        if lane not in self._job_by_lane:
            raise LookupError(f"lane {lane} was given up")
        return self._job_by_lane[lane]

    async def _wait_until(self, condition: Callable[[], object]) -> None:
        async with self._state_changed:
            await self._state_changed.wait_for(condition)

    async def _notify(self) -> None:
        async with self._state_changed:
            self._state_changed.notify_all()
