"""Images per second over sizes, batch sizes and number formats."""

import itertools
from typing import Any

from benchmarks.gpu.workload import (
    NUMBER_FORMATS,
    make_noise_trainer,
    make_trial,
    reset_peak_memory,
    training_rate,
    used_memory,
)
from benchmarks.harness import Outcome
from bioimg.training.device_memory import ran_out_of_memory

STEPS = 12
SIZES, BATCH_SIZES = (150, 224), (32, 128)


def measure(small: bool) -> Outcome:
    """Train each combination for an epoch to warm up, and two more."""
    cells = itertools.product(SIZES, BATCH_SIZES)
    rows = []
    for size, batch_size in [(32, 8)] if small else cells:
        for name, fields in NUMBER_FORMATS.items():
            trial = make_trial(small, image_size=size, batch_size=batch_size, **fields)
            reset_peak_memory()
            row: dict[str, Any] = {"pixels": size, "batch": batch_size, "format": name}
            try:
                row["images/s"] = training_rate(make_noise_trainer(trial, 2 if small else STEPS))
            except RuntimeError as error:
                if not ran_out_of_memory(error):
                    raise
                row["error"] = "out of memory"
            rows.append({**row, "peak MiB": used_memory()["peak MiB"]})
    return Outcome(f"Training of {make_trial(small).model}", rows, [])
