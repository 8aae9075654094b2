"""What a user waits for: from the command to the first epoch, from the last one to the prompt."""

import itertools
import os
import re
import tempfile
from dataclasses import dataclass
from typing import Any, cast

import pandas as pd

from benchmarks import process_tree
from benchmarks.baselines import ray_bare_lanes
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
WAYS = ("command", "API", "--local")
RAY_ALONE = "Ray alone"
RAY_ALONE_PHASE = "command to ready workers"
FIRST_EPOCH_EXCESS_S = 5
"""Seconds that a first epoch on lanes may take beyond Ray alone."""
LOCAL_FIRST_EPOCH_LIMIT_S = 8
DEMO_LIMIT_S = 45
MEMORY_LIMIT_GIB = 4


@dataclass(frozen=True, kw_only=True)
class StartBenchmark(Benchmark):
    """Starts the demo by the command, from Python and with --local; each decodes its images anew.

    "Ray alone" starts two lanes without this project, until a worker has imported torch and
    torchvision: no first epoch on lanes can come earlier. The limits are for 2 cores without other
    work. CPU seconds depend little on other work. Memory is PSS, in which what processes share is
    counted once.
    """

    repeats: int = 5
    """runs of each, of which the medians are taken"""

    def run(self) -> Outcome:
        phases = []
        for _ in range(self.repeats):
            phases.append({"way": RAY_ALONE, **measure_ray_alone()})
        for way in WAYS:
            for _ in range(self.repeats):
                phases += [{"way": way, **phase} for phase in measure_phases(run_demo(way))]
        medians = pd.DataFrame(phases).groupby(["way", "phase"], sort=False).median()
        title = f"The demo on {os.cpu_count()} cores, medians of {self.repeats}"
        rows = cast(list[dict[str, Any]], medians.reset_index().to_dict("records"))
        return Outcome(title, rows, start_targets(medians))


def measure_ray_alone() -> dict[str, Any]:
    """Start lanes without this project, and return what it costs until a worker is ready."""
    with tempfile.TemporaryDirectory() as folder:
        cost = process_tree.measure_python(["-m", ray_bare_lanes.__name__, folder])
    ready_at = next(moment for moment, line in cost.output if ray_bare_lanes.READY in line)
    return phase_cost(RAY_ALONE_PHASE, cost, cost.started_at, ready_at)


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
    return [
        phase_cost(name, cost, start, stop)
        for name, (start, stop) in zip(PHASES, itertools.pairwise(moments), strict=True)
    ]


def phase_cost(name: str, cost: ProcessCost, start: float, stop: float) -> dict[str, Any]:
    """Return wall time, CPU time and peak memory between two moments."""
    samples = pd.DataFrame({"memory": cost.memory, "cpu": cost.cpu_so_far}, cost.sample_times)
    # a sample that was taken in a phase, or the last one before it
    before, within = samples[:start], samples[start:stop]
    cpu_before = before["cpu"].max() if len(before) else 0.0
    cpu_within = within["cpu"].max() if len(within) else cpu_before
    memory = pd.concat([before["memory"].tail(1), within["memory"]]).max()
    return {
        "phase": name,
        "seconds": stop - start,
        "CPU seconds": cpu_within - cpu_before,
        "peak GiB": memory / 2**30,
    }


def start_targets(medians: pd.DataFrame) -> list[Target]:
    """Return the targets: the first epoch of each way, the whole demo, and its memory.

    medians: columns "seconds" and "peak GiB", by way and phase.
    """
    seconds = medians["seconds"].unstack("phase")
    first_epochs = seconds[list(START_PHASES)].sum(axis=1)
    ray_alone = float(seconds.loc[[RAY_ALONE], [RAY_ALONE_PHASE]].to_numpy().sum())
    targets = []
    for way in WAYS:
        limit = ray_alone + FIRST_EPOCH_EXCESS_S
        if way == "--local":
            limit = LOCAL_FIRST_EPOCH_LIMIT_S
        first_epoch = float(first_epochs[way])
        targets.append(Target(f"first epoch, {way}", first_epoch, limit, "s", at_most=True))
    demo = float(seconds.loc[["command"], list(PHASES)].to_numpy().sum())
    memory = float(medians["peak GiB"]["command"].max())
    return [
        *targets,
        Target("demo with its report", demo, DEMO_LIMIT_S, "s", at_most=True),
        Target("memory of all processes", memory, MEMORY_LIMIT_GIB, "GiB", at_most=True),
    ]
