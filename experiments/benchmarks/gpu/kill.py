"""The demo on lanes, with a worker that is killed while it trains."""

import contextlib
import tempfile

import psutil

from benchmarks import process_tree
from benchmarks.gpu.workload import SMALL_DEMO_FLAGS
from benchmarks.harness import Outcome, Target
from benchmarks.start import EPOCH_PATTERN
from bioimg.results.result_store import read_results

WORKER = "ray::RayTrainWorker"
KILL_AFTER_EPOCHS = 3


def measure(small: bool) -> Outcome:
    """Kill a worker after some epochs were printed. The command goes on by itself."""
    epochs = 0
    killed: list[int] = []

    def on_line(line: str) -> None:
        nonlocal epochs
        epochs += bool(EPOCH_PATTERN.search(line))
        if epochs >= KILL_AFTER_EPOCHS and not killed:
            killed.extend(kill_worker())

    program = str(process_tree.EXPERIMENTS_FOLDER / "grid.py")
    flags = (*SMALL_DEMO_FLAGS, "--seed", "0", "1") if small else ()
    with tempfile.TemporaryDirectory() as out:
        cost = process_tree.measure_python(
            [program, "demo", "--no-early-stopping", *flags, "--out", out], on_line
        )
        trials = read_results(out).trials
    row = {
        "killed workers": len(killed),
        "trials": len(trials),
        "completed": int((trials["status"] == "completed").sum()),
        "devices": " ".join(trials["device"].unique()),
        "format": " ".join(trials["precision_used"].unique()),
        "seconds": cost.seconds,
    }
    targets = [
        Target("workers killed", len(killed), 1, "workers"),
        Target("trials completed all the same", row["completed"], len(trials), "trials"),
    ]
    return Outcome("The demo on lanes, with a worker that is killed", [row], targets)


def kill_worker() -> list[int]:
    """Kill a worker of a lane. Return its id, or nothing if none was running."""
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if WORKER in " ".join(process.cmdline()):
                process.kill()
                return [process.pid]
    return []
