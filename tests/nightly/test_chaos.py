"""A grid whose processes are killed at random: the tables are the undisturbed ones.

The nightly tests include a small campaign of kills; `pytest -m campaign` runs the large one.
"""

import os
import random
import re
import signal
import subprocess
import tempfile
from collections import Counter, deque
from pathlib import Path

import psutil
import pytest

from bioimg.results.result_store import read_results
from support.experiments import DEMO_COMMAND, SMALL_FLAGS
from support.processes import CONTROLLER, COORDINATOR, TUNE_TRIAL, WORKER
from support.results import assert_same_results

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(7200)]

PROGRAM_ITSELF = "program"
VICTIMS = [WORKER, CONTROLLER, TUNE_TRIAL, COORDINATOR, PROGRAM_ITSELF, "raylet"]
TOLD = re.compile(
    r"^error: (the board|raylet), .* was lost.*run the same command again to resume", re.MULTILINE
)


def strike(program: subprocess.Popen, name: str, draw: random.Random) -> bool:
    """Kill one process of a kind, if there is one."""
    try:
        running = psutil.Process(program.pid).children(recursive=True)
        found = [
            p.pid for p in running if p.name() == name or f"ray::{name}" in " ".join(p.cmdline())
        ]
        victims = [program.pid] if name == PROGRAM_ITSELF else sorted(found)
        if victims:
            os.kill(draw.choice(victims), signal.SIGKILL)
        return bool(victims)
    except (psutil.NoSuchProcess, ProcessLookupError):  # another has just ended it
        return False


def campaign(command: list[str], kills: int, seed: int) -> Counter[str]:
    """Run a program again and again until it comes to its end, killing processes of every kind in a random order while it does.
    Returns what was killed."""
    draw, struck = random.Random(seed), Counter()
    order = (VICTIMS * kills)[:kills]
    draw.shuffle(order)
    due = deque(order)
    while True:
        with (
            tempfile.TemporaryFile("w+") as complaint,
            subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=complaint, text=True
            ) as program,
        ):
            for line in program.stdout:
                if "epoch " in line and due and draw.random() < 0.4:
                    if strike(program, due[0], draw):
                        struck[due.popleft()] += 1
                    else:
                        due.rotate(-1)
            code = program.wait()
            complaint.seek(0)
            said = complaint.read()
        if code == 0:
            return struck
        assert code == -signal.SIGKILL or (code == 2 and TOLD.search(said)), (
            f"exit code {code}: {said}"
        )


def check(
    folder: Path, *axes: str, kills: int, seed: int, alone: bool = True, finish: bool = False
) -> None:
    """Compare a grid under kills with the undisturbed one, made in one process if `alone`. With `finish` trials are stopped
    early, except frozen ones, and then trained to their end."""
    command = [*DEMO_COMMAND, *SMALL_FLAGS, *axes]
    if finish:
        command = [
            *(word for word in command if word != "--no-early-stopping"),
            "--freeze",
            "none",
            "features",
            "--finish",
        ]
    struck = campaign([*command, "--out", str(folder / "struck")], kills, seed)
    assert struck.total() == kills, f"only {dict(struck)} were killed"
    print(f"killed: {dict(struck)}")
    undisturbed = [*command, "--out", str(folder / "undisturbed"), *(["--local"] if alone else [])]
    subprocess.run(undisturbed, check=True, capture_output=True)
    assert_same_results(read_results(folder / "struck"), read_results(folder / "undisturbed"))


def test_a_kill_of_each_kind_changes_nothing(tmp_path):
    check(tmp_path, "--epochs", "16", "--seed", "0", "1", kills=len(VICTIMS), seed=1)


@pytest.mark.campaign
@pytest.mark.parametrize("seed", range(2))
def test_many_kills_change_nothing(tmp_path, seed):
    check(tmp_path, "--epochs", "20", "--seed", "0", "1", "2", "3", kills=17, seed=seed)


@pytest.mark.campaign
def test_many_kills_of_either_worker_of_a_trial_and_of_all_else_change_nothing(tmp_path):
    check(
        tmp_path,
        "--workers",
        "2",
        "--epochs",
        "20",
        "--seed",
        "0",
        "1",
        "2",
        "3",
        kills=17,
        seed=2,
        alone=False,
    )


@pytest.mark.campaign
def test_many_kills_change_nothing_where_trials_are_stopped_and_then_finished(tmp_path):
    check(tmp_path, "--epochs", "20", "--seed", "0", "1", "2", "3", kills=17, seed=3, finish=True)
