"""What all parts share: rows that become a table and a file, and targets that hold or don't."""

import dataclasses
import importlib.metadata
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from rich import box
from rich.console import Console
from rich.table import Table

from bioimg.progress.console import print_plain

RECORDED_PACKAGES = ("bioimg", "ray", "torch", "torchvision")


@dataclass(frozen=True)
class Target:
    """A figure and its limit; a figure that couldn't be measured is None and falls short."""

    what: str
    figure: float | None
    limit: float
    unit: str
    at_most: bool = False

    @property
    def is_met(self) -> bool:
        """Return True if the figure was measured and is on the right side of the limit."""
        if self.figure is None:
            return False
        if self.at_most:
            return self.figure <= self.limit
        return self.figure >= self.limit

    def __str__(self) -> str:
        measured = "not measured" if self.figure is None else f"{self.figure:.3g} {self.unit}"
        sense = "at most" if self.at_most else "at least"
        verdict = "holds" if self.is_met else "falls short"
        return f"{self.what}: {measured} against {sense} {self.limit:g} {self.unit}: {verdict}"


@dataclass(frozen=True)
class Outcome:
    """The results of a part: a title, rows (their names are columns), targets and notes."""

    title: str
    rows: Sequence[Mapping[str, Any]]
    targets: Sequence[Target]
    notes: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A part of the benchmark; its fields are its flags."""

    out: Path = Path("results/benchmark")
    """folder for PART.parquet"""

    def missing_hardware(self) -> str | None:
        """Return what this machine lacks, with the way out; None if nothing."""
        return None

    def run(self) -> Outcome:
        """Measure."""
        raise NotImplementedError


def publish_outcome(name: str, outcome: Outcome, out: Path, console: Console) -> bool:
    """Print and write the results of a part. Return True if all its targets hold."""
    console.print(outcome_table(outcome))
    for note in outcome.notes:
        console.print(note, highlight=False, markup=False)
    target_rows = [
        {**dataclasses.asdict(target), "holds": target.is_met} for target in outcome.targets
    ]
    write_rows(outcome.rows, out / f"{name}.parquet")
    write_rows(target_rows, out / f"{name}-targets.parquet")
    for target in outcome.targets:
        print_plain(console, f"{name}: {target}")
    return all(target.is_met for target in outcome.targets)


def write_rows(rows: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Write rows as Parquet, with columns that say when, where and with what they were measured."""
    context = measurement_context()
    file.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame([{**row, **context} for row in rows]).to_parquet(file)


def outcome_table(outcome: Outcome) -> Table:
    """Return the rows as a table. Cells that a row lacks are empty."""
    names = list(dict.fromkeys(name for row in outcome.rows for name in row))
    table = Table(title=outcome.title, box=box.SIMPLE_HEAD, pad_edge=False)
    for name in names:
        has_text = any(isinstance(row.get(name), str) for row in outcome.rows)
        table.add_column(name, no_wrap=has_text, overflow="fold")
    for row in outcome.rows:
        table.add_row(*(format_value(row.get(name)) for name in names))
    return table


def format_value(value: Any) -> str:
    """Format a value for the table: numbers with three digits."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)


def measurement_context() -> dict[str, Any]:
    """Return columns that say when, where and with which versions rows were measured."""
    return {
        "measured_at": pd.Timestamp.now("UTC"),
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "gpus": torch.cuda.device_count(),
        "gpu": gpu_name(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in RECORDED_PACKAGES},
    }


def device_name() -> str:
    """Return the name of the GPU, or of the processor where there is none."""
    return gpu_name() or processor_name()


def processor_name() -> str:
    """Return the processor's name, as the system reports it."""
    file = Path("/proc/cpuinfo")
    if file.exists():
        for line in file.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":")[1].strip()
    return platform.processor()


def local_device() -> torch.device:
    """Return what trials run on in this process: the GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def gpu_name() -> str | None:
    """Return the name of the GPU that trials run on, if there is one."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def elapsed_seconds(work: Callable[[], object]) -> float:
    """Return how long some work takes; on a GPU, until it has computed all of it."""
    wait_for_gpu()
    started = time.perf_counter()
    work()
    wait_for_gpu()
    return time.perf_counter() - started


def wait_for_gpu() -> None:
    """Wait until the GPU has done all that this process gave it."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
