"""Memory that tensors free stays with the process."""

import subprocess
import sys

import pytest

TRAIN = """
import resource, sys, threading
import torch
from bioimg import malloc_tuning

MB = 1 << 20

def step():
    tensors = [torch.ones(size * MB // 4) for size in (40, 40, 40, 20, 20, 20)]

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def train():
    for _ in range(8):
        before = faults()
        step()
    print(faults() - before)

if sys.argv[1] == "keep":
    malloc_tuning.keep_freed_memory()
thread = threading.Thread(target=train)  # as in a lane
thread.start()
thread.join()
"""


def page_faults(mode: str) -> int:
    """Return the page faults of a training step after several others."""
    result = subprocess.run(
        [sys.executable, "-c", TRAIN, mode], capture_output=True, text=True, check=True
    )
    return int(result.stdout)


@pytest.mark.nightly
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is Linux's")
def test_lane_step_reuses_freed_memory():
    assert page_faults("keep") < page_faults("default") / 10
