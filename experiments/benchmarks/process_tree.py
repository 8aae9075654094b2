"""What a program costs with every process that it starts, Ray's daemons and their children included. Needs Linux's /proc."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

EXPERIMENTS_FOLDER = Path(__file__).parents[1]
SAMPLE_INTERVAL_S = 0.5
"""Seconds between samples of the processes; what a process used after its last sample isn't counted."""


class ProgramError(RuntimeError):
    """A program that was measured ended with an error; holds the end of what it printed."""


@dataclass
class ProcessCost:
    """What a program used. `memory` and `own_memory` (that of its first process) are bytes (PSS: what processes share is
    counted once) at `moments`, seconds since the epoch."""

    started_at: float
    seconds: float = 0.0
    sample_times: list[float] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)
    own_memory: list[int] = field(default_factory=list)
    cpu_seconds_by_process: dict[tuple[int, float], float] = field(default_factory=dict)

    @property
    def cpu_seconds(self) -> float:
        """Of all processes together, user and system."""
        return sum(self.cpu_seconds_by_process.values())

    @property
    def peak_memory(self) -> int:
        """The most that all processes together held in any sample."""
        return max(self.memory, default=0)

    def sample(self, root: psutil.Process) -> None:
        """Sample every process of the tree."""
        total, own = 0, 0
        for process in [root, *root.children(recursive=True)]:
            try:
                used, held = process.cpu_times(), process.memory_full_info().pss
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
            self.cpu_seconds_by_process[process.pid, process.create_time()] = (
                used.user + used.system
            )
            total, own = total + held, held if process == root else own
        self.sample_times.append(time.time())
        self.memory.append(total)
        self.own_memory.append(own)


def measure_python(arguments: Sequence[str], **environment: str) -> ProcessCost:
    """Run a Python program (`["-m", MODULE, ...]` or `[FILE, ...]`) to its end, in this folder, and measure it.

    Raises:
        Broken: its exit code isn't 0.
    """
    paths = [
        str(EXPERIMENTS_FOLDER),
        str(EXPERIMENTS_FOLDER.parent),
        os.environ.get("PYTHONPATH", ""),
    ]
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **environment}
    cost = ProcessCost(started_at=time.time())
    program = subprocess.Popen(
        [sys.executable, *arguments],
        env=variables,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    ended = threading.Event()
    watch = threading.Thread(target=_sample_until_end, args=(program.pid, cost, ended))
    watch.start()
    printed, _ = program.communicate()
    cost.seconds = time.time() - cost.started_at
    ended.set()
    watch.join()
    if program.returncode:
        raise ProgramError(
            f"{' '.join(arguments)} ended with {program.returncode}:\n{printed[-3000:]}"
        )
    return cost


def _sample_until_end(pid: int, cost: ProcessCost, ended: threading.Event) -> None:
    try:
        root = psutil.Process(pid)
        cost.sample(root)
        while not ended.wait(SAMPLE_INTERVAL_S):
            cost.sample(root)
    except psutil.NoSuchProcess:
        pass
