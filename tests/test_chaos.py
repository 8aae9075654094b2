"""A grid whose processes are killed at random: the tables are the undisturbed ones.

The whole campaign runs with `pytest -m chaos tests/test_chaos.py`; the normal suite runs a small one.
"""

import os
import random
import signal
import subprocess
from collections import Counter
from pathlib import Path

import psutil
import pytest
from equal import same
from test_faults import BOARD, CONTROLLER, FOLLOWER, WORKER
from test_fleet import PROGRAM, SMALL

from bioimg.results.store import read

pytestmark = [pytest.mark.ray, pytest.mark.chaos, pytest.mark.timeout(7200)]

VICTIMS = [WORKER, WORKER, CONTROLLER, FOLLOWER, BOARD, "program"]


def strike(program: subprocess.Popen, name: str) -> bool:
    """Kill one process of a kind, if there is one."""
    running = psutil.Process(program.pid).children(recursive=True)
    found = [p.pid for p in running if f"ray::{name}" in " ".join(p.cmdline())] if name != "program" else [program.pid]
    if found:
        os.kill(found[-1], signal.SIGKILL)
    return bool(found)


def campaign(command: list[str], kills: int, seed: int) -> Counter[str]:
    """Run a program again and again until it comes to its end, killing processes while it does. Returns what was killed."""
    draw, struck = random.Random(seed), Counter()
    while True:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as program:
            for line in program.stdout:
                if "epoch " in line and struck.total() < kills and draw.random() < 0.4:
                    name = draw.choice(VICTIMS)
                    try:
                        struck[name] += strike(program, name)
                    except psutil.NoSuchProcess:  # another has just ended it
                        continue
            complaint = program.stderr.read()
        if program.returncode == 0:
            return struck
        assert program.returncode in (-signal.SIGKILL, 1, 2), complaint


def check(folder: Path, *axes: str, kills: int, seed: int) -> None:
    command = [*PROGRAM, *SMALL, *axes]
    struck = campaign([*command, "--out", str(folder / "struck")], kills, seed)
    assert struck.total() == kills, f"only {dict(struck)} were killed"
    subprocess.run([*command, "--local", "--out", str(folder / "undisturbed")], check=True, capture_output=True)
    print(f"killed: {dict(struck)}")
    same(read(folder / "struck"), read(folder / "undisturbed"))


def test_five_kills_change_nothing(tmp_path):
    check(tmp_path, "--epochs", "8", "--seed", "0", "1", kills=5, seed=1)


@pytest.mark.campaign
@pytest.mark.parametrize("seed", range(3))
def test_many_kills_change_nothing(tmp_path, seed):
    check(tmp_path, "--epochs", "20", "--seed", "0", "1", "2", "3", kills=17, seed=seed)
