"""The part `gpu`: its phases, one process after another, within a limit of time."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import pandas as pd
import torch

from benchmarks import process_tree
from benchmarks.harness import Benchmark, Outcome, Target

PhaseName = Literal[
    "machine",
    "correctness",
    "loader",
    "throughput",
    "profile",
    "memory",
    "epoch",
    "kill",
    "lanes",
    "compile",
]
PHASES: tuple[PhaseName, ...] = get_args(PhaseName)
"""In order of importance."""
MIN_PHASE_S = 15.0
"""Seconds without which no phase is started."""


@dataclass(frozen=True, kw_only=True)
class GpuBenchmark(Benchmark):
    """The project on a GPU, in less than 9 minutes: right, fast, and safe?

    Each phase is a process that prints its table and writes gpu-PHASE.parquet. A phase that is over
    its limit is ended, and phases for which no time is left are named.
    """

    small: bool = False
    """do little work, also without a GPU: this tests the benchmark, and its times mean nothing"""
    deadline: float = 510.0
    """seconds for all phases together"""
    limit: float = 160.0
    """seconds for a phase"""
    only: tuple[PhaseName, ...] = PHASES
    """which phases run"""

    def missing_hardware(self) -> str | None:
        if self.small or torch.cuda.is_available():
            return None
        return "no GPU was found. Give --small to do little work on the CPU."

    def run(self) -> Outcome:
        commands = {name: self._phase_command(name) for name in self.only}
        rows = run_phases(commands, self.deadline, self.limit)
        ended = [row["phase"] for row in rows if row["end"] == "completed"]
        targets = [Target("phases that completed", len(ended), len(rows), "phases")]
        for name in ended:
            targets += read_targets(self.out / f"gpu-{name}-targets.parquet")
        return Outcome("Phases", rows, targets)

    def _phase_command(self, name: str) -> list[str]:
        flags = ["--small"] if self.small else []
        return [sys.executable, "-m", "benchmarks.gpu.phase", name, str(self.out), *flags]


def run_phases(
    commands: Mapping[str, Sequence[str]], deadline_s: float, limit_s: float
) -> list[dict[str, Any]]:
    """Run commands, each for `limit_s` at most, and all for `deadline_s`.

    Return a row for each with how it ended and after how many seconds.
    """
    deadline = time.monotonic() + deadline_s
    rows = []
    for name, command in commands.items():
        started = time.monotonic()
        seconds_left = min(limit_s, deadline - started)
        if seconds_left < min(MIN_PHASE_S, limit_s):
            end = "left out: no time"
        else:
            end = run_phase(command, seconds_left)
        rows.append({"phase": name, "end": end, "seconds": time.monotonic() - started})
    return rows


def run_phase(command: Sequence[str], limit_s: float) -> str:
    """Run a command, with a cache and temporary files of its own. Return how it ended."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {"BIOIMG_CACHE": f"{folder}/cache", "TMPDIR": folder}
        environment["PYTHONPATH"] = process_tree.python_path()
        program = subprocess.Popen(command, env={**os.environ, **environment})
        try:
            code = program.wait(limit_s)
        except subprocess.TimeoutExpired:
            return f"over its limit of {limit_s:.0f} s"
        finally:
            if program.poll() is None:
                process_tree.kill_tree(program.pid)
                program.wait()
    return f"failed with exit code {code}" if code else "completed"


def read_targets(file: Path) -> list[Target]:
    """Read the targets that a phase has written."""
    targets = []
    for row in pd.read_parquet(file).to_dict("records"):
        figure = None if pd.isna(row["figure"]) else row["figure"]
        target = Target(row["what"], figure, row["limit"], row["unit"], at_most=row["at_most"])
        targets.append(target)
    return targets
