"""The board: trials wait on it for a lane, and what the lanes say of them waits for Tune.

    Tune trial                board                        lane
    submit(trial)  ------->   queue            ------->    take()
    next(key)      <-------   reports of a key <-------    report(key, epoch)
    go_on(key), stop(key, why)  ------->       ------->       ... returns why to stop, if so

It is an asyncio actor: whoever asks for what isn't there yet waits, without polling.
"""

import asyncio
from collections import defaultdict, deque
from dataclasses import dataclass
from typing import Any

import ray

from bioimg.experiment import Stop


@dataclass
class Job:
    """A trial on the board. `attempts` counts the times that a lane took it."""

    key: str
    trial: dict[str, Any]
    attempts: int = 0


@dataclass(frozen=True)
class Ended:
    """The last report of a trial."""

    status: str


class Board:
    """Knows what waits, who works at what, and nothing of what a trial is."""

    def __init__(self) -> None:
        self._waiting: deque[Job] = deque()
        self._taken: dict[int, Job] = {}
        self._reports: defaultdict[str, asyncio.Queue[dict[str, Any] | Ended]] = defaultdict(asyncio.Queue)
        self._answers: dict[str, asyncio.Future[Stop | None]] = {}
        self._stopped: dict[str, Stop] = {}
        self._open = True
        self._changed = asyncio.Condition()

    async def submit(self, key: str, trial: dict[str, Any]) -> None:
        """Put a trial up, unless it is here already."""
        if key not in self._reports:
            self._reports[key] = asyncio.Queue()
            self._waiting.append(Job(key, trial))
            await self._notify()

    async def take(self, lane: int) -> Job | None:
        """The next trial for a lane; the same one again if the lane was restarted before its end; None when all is done."""
        async with self._changed:
            await self._changed.wait_for(lambda: lane in self._taken or self._waiting or not self._open)
            if lane not in self._taken and self._waiting:
                self._taken[lane] = self._waiting.popleft()
            if lane not in self._taken:
                return None
            job = self._taken[lane]
            job.attempts += 1
            return job

    async def report(self, key: str, epoch: dict[str, Any], wait: bool) -> Stop | None:
        """Pass an epoch on to Tune. Returns why to stop, if so: what is known or, with `wait`, what Tune says to this one."""
        if wait:
            self._answers[key] = asyncio.get_running_loop().create_future()
        self._reports[key].put_nowait(epoch)
        return await self._answers[key] if wait else self._stopped.get(key)

    async def end(self, lane: int, key: str, status: str) -> None:
        """A lane is through with a trial."""
        self._taken.pop(lane, None)
        self._reports[key].put_nowait(Ended(status))
        await self._notify()

    async def give_back(self, lane: int) -> None:
        """A lane is lost for good: the trial that it was at is the next one that another takes."""
        if job := self._taken.pop(lane, None):
            self._waiting.appendleft(job)
        await self._notify()

    async def next(self, key: str) -> dict[str, Any] | Ended:
        """The next report of a trial."""
        return await self._reports[key].get()

    async def go_on(self, key: str) -> None:
        """Tune has seen the last report of a trial and lets it go on."""
        self._answer(key, None)

    async def stop(self, key: str, why: Stop) -> None:
        """Tune stops a trial."""
        self._stopped[key] = why
        self._answer(key, why)

    def _answer(self, key: str, stop: Stop | None) -> None:
        future = self._answers.pop(key, None)
        if future is not None and not future.done():
            future.set_result(stop)

    async def close(self) -> None:
        """Let lanes go once nothing waits."""
        self._open = False
        await self._notify()

    async def drained(self) -> None:
        """Returns when nothing waits and no lane is at work."""
        async with self._changed:
            await self._changed.wait_for(lambda: not self._waiting and not self._taken)

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()


def open_board() -> Any:
    """A board in an actor of its own, which holds no device."""
    return ray.remote(Board).options(num_cpus=0, max_concurrency=1000).remote()
