"""Several lanes on one device: images per second of all of them, while all of them train."""

import os

from benchmarks import lanes
from benchmarks.gpu.workload import SMALL_DEMO_FLAGS
from benchmarks.harness import Outcome

MAX_LANES, SMALL_MAX_LANES = 4, 2
FLAGS = (
    *("--model", "resnext50_32x4d"),
    *("--weights", "none"),
    *("--freeze", "none"),
    *("--image-size", "150"),
    *("--batch-size", "32"),
    *("--learning-rate", "1e-4"),
    *("--tune",),
    *("--epochs", "30"),
    *("--keep", "none"),
)


def measure(small: bool) -> Outcome:
    """Train a trial on each lane, all of them at once."""
    max_lanes = min(SMALL_MAX_LANES if small else MAX_LANES, os.cpu_count() or 1)
    flags = SMALL_DEMO_FLAGS if small else FLAGS
    rows = []
    for count in range(1, max_lanes + 1):
        ran = lanes.run_seeds(count, *flags, lanes=count)
        rows.append({"lanes": count, "images/s": common_rate(ran)})
        rows[-1]["times one lane"] = rows[-1]["images/s"] / rows[0]["images/s"]
    return Outcome("Lanes on one device, a trial on each", rows, [])


def common_rate(ran: lanes.GridRun) -> float:
    """Return the images per second of all trials, by the epochs while all of them trained."""
    trials = ran.trials.set_index("key")
    start, stop = trials["started"].max(), trials["ended"].min()
    rate = 0.0
    for key, epochs in ran.epochs.groupby("key"):
        ends = trials["started"][key] + epochs["seconds"].cumsum()
        common = epochs["seconds"][(ends - epochs["seconds"] >= start) & (ends <= stop)]
        rate += trials["train_images"][key] * len(common) / common.sum()
    return rate
