"""A grid whose processes are killed at random: its tables are those of an undisturbed one.

A killed trial repeats the epochs after its last saved one. How many these are depends on the time
that saving takes, and changes no number.

A small campaign of kills runs every night; `pytest -m campaign` runs the large ones.
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

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.timeout(7200),
    pytest.mark.usefixtures("no_ray"),
]

PROGRAM = "program"
VICTIMS = [WORKER, CONTROLLER, TUNE_TRIAL, COORDINATOR, PROGRAM, "raylet"]
LOSS = re.compile(
    r"^error: (the \w+|raylet), .* was lost.*run the same command again to resume", re.MULTILINE
)
KILL_PROBABILITY = 0.4
"""Of the next kill, at each epoch that ends."""


def kill_one(program: subprocess.Popen, victim: str, generator: random.Random) -> bool:
    """Kill one process of a kind; return whether one was running."""
    try:
        children = psutil.Process(program.pid).children(recursive=True)
        pids = [
            process.pid
            for process in children
            if process.name() == victim or f"ray::{victim}" in " ".join(process.cmdline())
        ]
        if victim == PROGRAM:
            pids = [program.pid]
        if pids:
            os.kill(generator.choice(sorted(pids)), signal.SIGKILL)
        return bool(pids)
    except (psutil.NoSuchProcess, ProcessLookupError):  # another kill has just ended it
        return False


def run_under_kills(command: list[str], kill_count: int, seed: int) -> Counter[str]:
    """Run a program until it completes, while processes of every kind are killed in random order.

    Returns:
        How many processes of each kind were killed.
    """
    generator = random.Random(seed)
    killed: Counter[str] = Counter()
    order = (VICTIMS * kill_count)[:kill_count]
    generator.shuffle(order)
    due = deque(order)
    while True:
        with (
            tempfile.TemporaryFile("w+") as error_file,
            subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=error_file, text=True
            ) as program,
        ):
            assert program.stdout is not None
            for line in program.stdout:
                if "epoch " not in line or not due or generator.random() >= KILL_PROBABILITY:
                    continue
                if kill_one(program, due[0], generator):
                    killed[due.popleft()] += 1
                else:
                    due.rotate(-1)
            code = program.wait()
            error_file.seek(0)
            errors = error_file.read()
        if code == 0:
            return killed
        expected = code == -signal.SIGKILL or (code == 2 and LOSS.search(errors))
        assert expected, f"exit code {code}: {errors}"


def check_campaign(folder: Path, command: list[str], undisturbed: list[str], **kills: int) -> None:
    """Compare a grid under kills with the same one undisturbed."""
    killed = run_under_kills([*command, "--out", str(folder / "struck")], **kills)
    assert killed.total() == kills["kill_count"], f"only {dict(killed)} were killed"
    print(f"killed: {dict(killed)}")
    undisturbed = [*undisturbed, "--out", str(folder / "undisturbed")]
    subprocess.run(undisturbed, check=True, capture_output=True)
    assert_same_results(read_results(folder / "struck"), read_results(folder / "undisturbed"))


def test_a_kill_of_each_kind_changes_nothing(tmp_path):
    command = [*DEMO_COMMAND, *SMALL_FLAGS, "--epochs", "16", "--seed", "0", "1"]
    check_campaign(tmp_path, command, [*command, "--local"], kill_count=len(VICTIMS), seed=1)


LONG_COMMAND = [*DEMO_COMMAND, *SMALL_FLAGS, "--epochs", "20", "--seed", "0", "1", "2", "3"]


@pytest.mark.campaign
@pytest.mark.parametrize("seed", range(2))
def test_many_kills_change_nothing(tmp_path, seed):
    check_campaign(tmp_path, LONG_COMMAND, [*LONG_COMMAND, "--local"], kill_count=17, seed=seed)


@pytest.mark.campaign
def test_many_kills_change_nothing_with_two_workers(tmp_path):
    """Either worker of a trial is killed, and all else."""
    command = [*LONG_COMMAND, "--workers", "2"]
    check_campaign(tmp_path, command, command, kill_count=17, seed=2)


@pytest.mark.campaign
def test_many_kills_change_nothing_when_stopped_trials_are_finished(tmp_path):
    """Trials are stopped early, except those on a frozen backbone, and then trained to the end."""
    command = [word for word in LONG_COMMAND if word != "--no-early-stopping"]
    command += ["--freeze", "none", "features", "--alpha", "0.5", "--finish"]
    check_campaign(tmp_path, command, [*command, "--local"], kill_count=17, seed=3)
