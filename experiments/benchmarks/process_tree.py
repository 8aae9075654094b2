"""What a program costs with every process that it starts, Ray's daemons and their children too.

This needs Linux's /proc.
"""

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

EXPERIMENTS_FOLDER = Path(__file__).parents[1]
SAMPLE_INTERVAL_S = 0.5
"""Seconds between samples. What a process uses after its last sample isn't counted."""
MEMORY_INTERVAL_FACTOR = 20
"""How many times the duration of a sample of memory passes until the next one.

Linux goes through all pages of all processes for it. With the many processes of Ray that takes 0.1
s, and every half second it took a tenth of the CPU time of what was measured.
"""
SHOWN_OUTPUT = 3000
"""Characters of a failed program's output that its error shows, from the end."""


class ProgramError(RuntimeError):
    """A program that was measured ended with an error. The text ends with its output."""


@dataclass
class ProcessCost:
    """What a program used, over all its processes.

    `memory` and `own_memory` (of its first process) are bytes at `sample_times`, which are seconds
    since the epoch. They are PSS: what processes share is counted once. Between two samples of
    memory the last one is repeated. `cpu_so_far` are the CPU seconds of all processes until then.
    `output` holds the lines that it printed, and when.
    """

    started_at: float
    seconds: float = 0.0
    sample_times: list[float] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)
    own_memory: list[int] = field(default_factory=list)
    cpu_so_far: list[float] = field(default_factory=list)
    output: list[tuple[float, str]] = field(default_factory=list)
    next_memory_at: float = 0.0
    cpu_seconds_by_process: dict[tuple[int, float], float] = field(default_factory=dict)

    @property
    def cpu_seconds(self) -> float:
        """User and system time of all processes together."""
        return sum(self.cpu_seconds_by_process.values())

    @property
    def peak_memory(self) -> int:
        """The most that all processes together held in any sample."""
        return max(self.memory, default=0)

    def sample(self, root: psutil.Process) -> None:
        """Sample every process of the tree: its CPU time and, less often, its memory."""
        processes = [root, *root.children(recursive=True)]
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                times = process.cpu_times()
                # a process id may be used again, but not at the same time of creation
                identity = process.pid, process.create_time()
                self.cpu_seconds_by_process[identity] = times.user + times.system
        now = time.time()
        if now >= self.next_memory_at:
            own, *others = map(proportional_memory, processes)
            self.memory.append(own + sum(others))
            self.own_memory.append(own)
            ended = time.time()
            self.next_memory_at = ended + MEMORY_INTERVAL_FACTOR * (ended - now)
        else:
            self.memory.append(self.memory[-1])
            self.own_memory.append(self.own_memory[-1])
        self.sample_times.append(now)
        self.cpu_so_far.append(self.cpu_seconds)


def proportional_memory(process: psutil.Process) -> int:
    """Return the PSS of a process in bytes; 0 if it has ended."""
    try:
        return process.memory_full_info().pss
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0


def measure_python(
    arguments: Sequence[str],
    on_line: Callable[[str], None] = lambda line: None,
    **environment: str,
) -> ProcessCost:
    """Run a Python program to its end, in this folder, and measure it.

    Args:
        arguments: those of Python, as in `["-m", MODULE, ...]` or `[FILE, ...]`.
        on_line: called with each line that it prints.
        environment: further environment variables.

    Raises:
        ProgramError: its exit code isn't 0.
    """
    cost = ProcessCost(started_at=time.time())
    program = subprocess.Popen(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": python_path(), **environment},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    ended = threading.Event()
    sampler = threading.Thread(target=_sample_until_end, args=(program.pid, cost, ended))
    sampler.start()
    assert program.stdout
    try:
        with program.stdout:
            for line in program.stdout:
                cost.output.append((time.time(), line))
                on_line(line)
        program.wait()
    finally:
        ended.set()
        sampler.join()
        if program.poll() is None:
            kill_tree(program.pid)
            program.wait()
    cost.seconds = time.time() - cost.started_at
    if program.returncode:
        command = " ".join(arguments)
        output = "".join(line for _, line in cost.output)
        raise ProgramError(f"{command} ended with {program.returncode}:\n{output[-SHOWN_OUTPUT:]}")
    return cost


def python_path() -> str:
    """Return the value of PYTHONPATH with which programs import the benchmarks and the project."""
    folders = [str(EXPERIMENTS_FOLDER), str(EXPERIMENTS_FOLDER.parent)]
    if inherited := os.environ.get("PYTHONPATH"):
        folders.append(inherited)
    return os.pathsep.join(folders)


def kill_tree(pid: int) -> None:
    """End a process that this one has started, with all processes that it has started."""
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        root.suspend()  # so that it starts no more
        for process in [*root.children(recursive=True), root]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def _sample_until_end(pid: int, cost: ProcessCost, ended: threading.Event) -> None:
    try:
        root = psutil.Process(pid)
        cost.sample(root)
        while not ended.wait(SAMPLE_INTERVAL_S):
            cost.sample(root)
    except psutil.NoSuchProcess:
        pass
