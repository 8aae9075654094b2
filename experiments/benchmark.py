"""What is claimed about speed, measured on this machine.

    python experiments/benchmark.py                 every part, one after another
    python experiments/benchmark.py PART [flags]    one of them; --help explains its flags

Each part prints a table, writes it to results/benchmark/PART.parquet, and ends with a line for each target, `PART: FIGURE
against TARGET: holds` or `falls short`; its exit status says the same.
"""

import os
import subprocess
import sys
from pathlib import Path

import tyro
from rich.console import Console

from benchmarks.data import Data
from benchmarks.early_stopping import Replay
from benchmarks.frame import Part, conclude
from benchmarks.grid import Grid
from benchmarks.overhead import Overhead
from benchmarks.scale import Scale
from benchmarks.step import Step
from benchmarks.tree import Broken
from bioimg.cluster.lanes import MEMORY
from bioimg.config import UserError

PARTS: dict[str, type[Part]] = {
    "grid": Grid,
    "step": Step,
    "overhead": Overhead,
    "scale": Scale,
    "data": Data,
    "early-stopping": Replay,
}


def main() -> int:
    """Run what was asked for; 0 if every target holds."""
    if not sys.argv[1:]:  # in processes of their own, so that no part finds anything warm
        return max([abs(subprocess.call([sys.executable, str(Path(__file__)), name])) for name in PARTS])
    part: Part = tyro.extras.subcommand_cli_from_dict(PARTS, description=__doc__)
    name = next(name for name, known in PARTS.items() if isinstance(part, known))
    try:
        return int(not conclude(name, part.run(), part.out, Console(file=sys.stdout)))
    except (UserError, Broken) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _in_memory_of_a_lane() -> None:
    """Begin again as a lane's worker does: glibc reads these settings when a process starts."""
    if not MEMORY.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **MEMORY})


if __name__ == "__main__":
    if sys.argv[1:2] == ["step"]:
        _in_memory_of_a_lane()
    sys.exit(main())
