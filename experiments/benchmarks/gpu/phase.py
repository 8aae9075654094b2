"""A phase in a process of its own: `python -m benchmarks.gpu.phase NAME OUT [--small]`."""

import importlib
import sys
from pathlib import Path

import torch
from rich.console import Console

from benchmarks.harness import publish_outcome
from bioimg import malloc_tuning


def main(name: str, out: str, *flags: str) -> None:
    """Measure a phase as a lane would run it, print its table, and write gpu-NAME.parquet."""
    malloc_tuning.keep_freed_memory()
    torch.set_num_threads(1)
    phase = importlib.import_module(f"benchmarks.gpu.{name}")
    outcome = phase.measure(small="--small" in flags)
    publish_outcome(f"gpu-{name}", outcome, Path(out), Console(file=sys.stdout))


if __name__ == "__main__":
    main(*sys.argv[1:])
