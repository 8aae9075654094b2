"""The card and its ceilings."""

import os
from collections.abc import Callable

import torch

from benchmarks.harness import Outcome, elapsed_seconds, gpu_name, local_device
from benchmarks.step import product_flops
from bioimg.training import precision

COPIED_BYTES = 2**30
MATRIX_SIDE, SMALL_MATRIX_SIDE = 8192, 256
"""Sides of matrices; the product of the former reaches the peak of a large GPU."""
REPEATS = 10


def measure(small: bool) -> Outcome:
    """Measure the rates at which the device copies and multiplies."""
    side = SMALL_MATRIX_SIDE if small else MATRIX_SIDE
    rows = [{"work": "copy on the device", "GB/s": copy_bandwidth(small) / 1e9}]
    on_device = torch.empty(_copied_bytes(small), dtype=torch.uint8, device=local_device())
    to_memory = on_device.nbytes / _fastest_seconds(lambda: on_device.to("cpu", copy=True))
    rows.append({"work": "copy from the device to memory", "GB/s": to_memory / 1e9})
    for name in ("float32", "TF32", "bfloat16", "float16"):
        precision.allow_tf32(name == "TF32")
        dtype = torch.float32 if name == "TF32" else getattr(torch, name)
        flops = product_flops(side, dtype)
        rows.append({"work": f"matrix product, {name}", "TFLOP/s": flops / 1e12})
    notes = [f"{os.cpu_count()} CPU cores, CUDA {torch.version.cuda}"]
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        notes.append(
            f"compute capability {properties.major}.{properties.minor}, "
            f"{properties.total_memory / 2**30:.0f} GiB, cuDNN {torch.backends.cudnn.version()}, "
            f"`precision` auto is {precision.fastest_format(local_device())}"
        )
    return Outcome(f"Ceilings of {gpu_name() or 'this CPU'}", rows, [], notes)


def copy_bandwidth(small: bool) -> float:
    """Return the bytes per second that a copy on the device reads and writes."""
    source = torch.empty(_copied_bytes(small), dtype=torch.uint8, device=local_device())
    target = torch.empty_like(source)
    return 2 * source.nbytes / _fastest_seconds(lambda: target.copy_(source))


def _copied_bytes(small: bool) -> int:
    return COPIED_BYTES // 64 if small else COPIED_BYTES


def _fastest_seconds(work: Callable[[], object]) -> float:
    return min(elapsed_seconds(work) for _ in range(REPEATS))
