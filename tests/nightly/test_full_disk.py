"""The disk fills while lanes write."""

import re
import shutil
import subprocess

import pandas as pd
import pytest

from bioimg.results.result_store import read_results
from support.experiments import DEMO_COMMAND, SMALL_FLAGS

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.usefixtures("no_ray"),
]

RUN_ON_SMALL_DISK = """
mount -t tmpfs -o size=200m tmpfs "$0" || exit 99
"$@" --seed 0 --local || exit
cp -r "$0" "$0.before"
mount -o remount,size=$(($(df -k --output=used "$0" | tail -1) + ROOM))k "$0"
"$@" --seed 0 1 2
echo "ended with $?"
cp -r "$0" "$0.full"
mount -o remount,size=200m "$0"
"$@" --seed 0 1 2 --local || exit
cp -r "$0" "$0.after"
"""
"""Mount a disk on $0 and run the command $@ three times: with room, without, and with room again.
What each run leaves is copied out of the disk."""


def may_mount() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode == 0


def test_full_disk_ends_the_run_with_a_message_and_it_resumes(tmp_path):
    if not may_mount():
        pytest.skip("needs root and Linux: a small disk is mounted")
    out = tmp_path / "out"
    out.mkdir()
    command = [*DEMO_COMMAND, *SMALL_FLAGS, "--epochs", "2", "--out", str(out)]
    script = RUN_ON_SMALL_DISK.replace("ROOM", "400")
    program = subprocess.run(
        ["unshare", "--mount", "bash", "-c", script, str(out), *command],
        capture_output=True,
        text=True,
    )
    assert program.returncode == 0, program.stdout + program.stderr
    assert "ended with 2\n" in program.stdout
    assert re.search(r"resume.*\.pt can't be written: No space left on device", program.stderr)
    assert "Free some space or check the disk, then run the same command again" in program.stderr
    assert "Traceback" not in program.stderr
    before = read_results(tmp_path / "out.before")
    full = read_results(tmp_path / "out.full")
    after = read_results(tmp_path / "out.after")
    assert full.trials["status"].tolist() == ["completed"]
    assert after.trials["status"].tolist() == ["completed"] * 3
    for results in (full, after):
        pd.testing.assert_frame_equal(results.trials.head(1), before.trials.head(1))
    assert not list((tmp_path / "out.full").rglob(".*.partial")), "a temporary file was left behind"
