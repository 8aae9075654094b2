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

from benchmarks.data import DecodingBenchmark
from benchmarks.early_stopping import EarlyStoppingBenchmark
from benchmarks.grid import GridBenchmark
from benchmarks.harness import Benchmark, publish_outcome
from benchmarks.overhead import OverheadBenchmark
from benchmarks.process_tree import ProgramError
from benchmarks.scale import ScaleBenchmark
from benchmarks.step import StepBenchmark
from bioimg.errors import UserError

BENCHMARKS: dict[str, type[Benchmark]] = {
    "grid": GridBenchmark,
    "step": StepBenchmark,
    "overhead": OverheadBenchmark,
    "scale": ScaleBenchmark,
    "data": DecodingBenchmark,
    "early-stopping": EarlyStoppingBenchmark,
}


def main() -> int:
    """Run the parts that the command names, or all; 0 if every target holds."""
    if not sys.argv[1:]:  # each in its own process, so that no part finds anything warm
        return max(
            [
                abs(subprocess.call([sys.executable, str(Path(__file__)), name]))
                for name in BENCHMARKS
            ]
        )
    part: Benchmark = tyro.extras.subcommand_cli_from_dict(BENCHMARKS, description=__doc__)
    name = next(name for name, known in BENCHMARKS.items() if isinstance(part, known))
    try:
        return int(not publish_outcome(name, part.run(), part.out, Console(file=sys.stdout)))
    except (UserError, ProgramError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
