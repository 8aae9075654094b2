"""What a user waits for: from the command to the first epoch, from the last one to the prompt."""

import itertools
import os
import re
import tempfile
from dataclasses import dataclass
from typing import Any, cast

import pandas as pd

from benchmarks import process_tree
from benchmarks.harness import Benchmark, Outcome, Target
from benchmarks.process_tree import ProcessCost

API_PROGRAM = "import bioimg, sys; bioimg.compare(out=sys.argv[1])"
EPOCH_PATTERN = re.compile(r" epoch \d+/\d+ ")
PHASES = (
    "command to first line",
    "first line to first epoch",
    "first epoch to last",
    "last epoch to prompt",
)
START_PHASES = PHASES[:2]
FIRST_EPOCH_LIMIT_S = {"command": 15, "API": 15, "--local": 8}
DEMO_LIMIT_S = 45
MEMORY_LIMIT_GIB = 4


@dataclass(frozen=True, kw_only=True)
class StartBenchmark(Benchmark):
    """Starts the demo by the command, from Python and with --local; each decodes its images anew.

    The limits are for 2 cores without other work. CPU seconds depend little on other work. Memory
    is PSS, in which what processes share is counted once.
    """

    repeats: int = 5
    """runs of each, of which the medians are taken"""

    def run(self) -> Outcome:
        phases = []
        for way in FIRST_EPOCH_LIMIT_S:
            for _ in range(self.repeats):
                phases += [{"way": way, **phase} for phase in measure_phases(run_demo(way))]
        medians = pd.DataFrame(phases).groupby(["way", "phase"], sort=False).median()
        title = f"The demo on {os.cpu_count()} cores, medians of {self.repeats}"
        rows = cast(list[dict[str, Any]], medians.reset_index().to_dict("records"))
        return Outcome(title, rows, start_targets(medians))


def run_demo(way: str) -> ProcessCost:
    """Run the demo in one of the ways."""
    with tempfile.TemporaryDirectory() as folder:
        out = f"{folder}/results"
        if way == "API":
            program = ["-c", API_PROGRAM, out]
        else:
            program = [str(process_tree.EXPERIMENTS_FOLDER / "grid.py"), "demo", "--out", out]
        if way == "--local":
            program.append("--local")
        return process_tree.measure_python(program, BIOIMG_CACHE=f"{folder}/cache")


def measure_phases(cost: ProcessCost) -> list[dict[str, Any]]:
    """Return wall time, CPU time and peak memory of each phase. What was printed divides them."""
    epochs = [moment for moment, line in cost.output if EPOCH_PATTERN.search(line)]
    first_line, _ = cost.output[0]
    ended_at = cost.started_at + cost.seconds
    moments = [cost.started_at, first_line, epochs[0], epochs[-1], ended_at]
    samples = pd.DataFrame({"memory": cost.memory, "cpu": cost.cpu_so_far}, cost.sample_times)
    phases = []
    for name, (start, stop) in zip(PHASES, itertools.pairwise(moments), strict=True):
        # a sample that was taken in a phase, or the last one before it
        before, within = samples[:start], samples[start:stop]
        cpu_before = before["cpu"].max() if len(before) else 0.0
        cpu_within = within["cpu"].max() if len(within) else cpu_before
        memory = pd.concat([before["memory"].tail(1), within["memory"]]).max()
        phases.append(
            {
                "phase": name,
                "seconds": stop - start,
                "CPU seconds": cpu_within - cpu_before,
                "peak GiB": memory / 2**30,
            }
        )
    return phases


def start_targets(medians: pd.DataFrame) -> list[Target]:
    """Return the targets: the first epoch of each way, the whole demo, and its memory.

    medians: columns "seconds" and "peak GiB", by way and phase.
    """
    seconds = medians["seconds"].unstack("phase")
    targets = []
    for way, limit in FIRST_EPOCH_LIMIT_S.items():
        first_epoch = float(seconds.loc[[way], list(START_PHASES)].to_numpy().sum())
        targets.append(Target(f"first epoch, {way}", first_epoch, limit, "s", at_most=True))
    demo = float(seconds.loc[["command"]].to_numpy().sum())
    memory = float(medians["peak GiB"]["command"].max())
    return [
        *targets,
        Target("demo with its report", demo, DEMO_LIMIT_S, "s", at_most=True),
        Target("memory of all processes", memory, MEMORY_LIMIT_GIB, "GiB", at_most=True),
    ]
