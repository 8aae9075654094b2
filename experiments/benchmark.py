"""The claims about speed, measured on this machine.

    python experiments/benchmark.py                 every part, one after another
    python experiments/benchmark.py PART [flags]    one of them; --help explains its flags

Each part prints a table, writes it to results/benchmark/PART.parquet, and ends with a line for each target, `PART: FIGURE
against TARGET: holds` or `falls short`; its exit status says the same.
"""

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
    """Run the parts that the command names, or all; 0 if every target holds."""
    if not sys.argv[1:]:  # each in its own process, so that no part finds anything warm
        return max([abs(subprocess.call([sys.executable, str(Path(__file__)), name])) for name in PARTS])
    part: Part = tyro.extras.subcommand_cli_from_dict(PARTS, description=__doc__)
    name = next(name for name, known in PARTS.items() if isinstance(part, known))
    try:
        return int(not conclude(name, part.run(), part.out, Console(file=sys.stdout)))
    except (UserError, Broken) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
