"""The claims about speed, measured on this machine.

    python experiments/benchmark.py                 every part, one after another
    python experiments/benchmark.py PART [flags]    one of them; --help explains its flags

Each part prints a table, writes it to results/benchmark/PART.parquet, and ends with a line for each
target, `PART: FIGURE against TARGET: holds` or `falls short`. The exit status is 0 if all hold.
"""

import subprocess
import sys
from pathlib import Path

import tyro
from rich.console import Console

from benchmarks.data import DecodingBenchmark
from benchmarks.early_stopping import EarlyStoppingBenchmark
from benchmarks.gpu.benchmark import GpuBenchmark
from benchmarks.grid import GridBenchmark
from benchmarks.harness import Benchmark, publish_outcome
from benchmarks.large_set import LargeSetBenchmark
from benchmarks.overhead import OverheadBenchmark
from benchmarks.process_tree import ProgramError
from benchmarks.scale import ScaleBenchmark
from benchmarks.start import StartBenchmark
from benchmarks.step import StepBenchmark
from benchmarks.tuned_grid import TunedGridBenchmark
from bioimg.errors import UserError

BENCHMARKS: dict[str, type[Benchmark]] = {
    "start": StartBenchmark,
    "grid": GridBenchmark,
    "tuned-grid": TunedGridBenchmark,
    "step": StepBenchmark,
    "gpu": GpuBenchmark,
    "overhead": OverheadBenchmark,
    "scale": ScaleBenchmark,
    "data": DecodingBenchmark,
    "large-set": LargeSetBenchmark,
    "early-stopping": EarlyStoppingBenchmark,
}


def main() -> int:
    """Run the part that the command names, or all. Return 0 if every target holds."""
    if not sys.argv[1:]:
        return run_all_parts()
    part: Benchmark = tyro.extras.subcommand_cli_from_dict(BENCHMARKS, description=__doc__)
    name = next(name for name, kind in BENCHMARKS.items() if type(part) is kind)
    try:
        if missing := part.missing_hardware():
            raise UserError(missing)
        all_hold = publish_outcome(name, part.run(), part.out, Console(file=sys.stdout))
    except (UserError, ProgramError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0 if all_hold else 1


def run_all_parts() -> int:
    """Run each part that this machine can, in its own process, so that none finds anything warm."""
    program = str(Path(__file__))
    exit_codes = []
    for name, kind in BENCHMARKS.items():
        if missing := kind().missing_hardware():
            print(f"{name} is left out: {missing}")
        else:
            exit_codes.append(subprocess.call([sys.executable, program, name]))
    # a process that was killed has a negative one
    return max(abs(code) for code in exit_codes)


if __name__ == "__main__":
    sys.exit(main())
