"""The disk fills while lanes write."""

import shutil
import subprocess

import pandas as pd
import pytest

from bioimg.results.result_store import Results, read_results
from support.experiments import DEMO_COMMAND, SMALL_FLAGS

pytestmark = [pytest.mark.nightly, pytest.mark.filterwarnings("ignore")]

DISK = """
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
"""A disk of its own that $0 lies on: a run, a second one for which there isn't room, and a third with room again. What each
left is copied out."""


def test_a_disk_that_fills_ends_the_run_with_a_message_and_with_room_the_same_command_goes_on(
    tmp_path,
):
    if (
        shutil.which("unshare") is None
        or subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode
    ):
        pytest.skip("needs root and Linux: a small disk is mounted")
    out = tmp_path / "out"
    out.mkdir()
    command = [*DEMO_COMMAND, *SMALL_FLAGS, "--epochs", "2", "--out", str(out)]
    script = DISK.replace("ROOM", "400")
    ran = subprocess.run(
        ["unshare", "--mount", "bash", "-c", script, str(out), *command],
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "ended with 2\n" in ran.stdout
    assert "resume.pt can't be written: No space left on device." in ran.stderr
    assert "Free some space or check the disk, then run the same command again" in ran.stderr
    assert "Traceback" not in ran.stderr
    before, full, after = (
        read_results(tmp_path / f"out.{when}") for when in ("before", "full", "after")
    )
    assert full.trials["status"].tolist() == ["completed"]
    assert after.trials["status"].tolist() == ["completed"] * 3
    for results in (full, after):
        pd.testing.assert_frame_equal(first(results), first(before))
    assert not list((tmp_path / "out.full").rglob(".*.partial")), "a temporary file was left behind"


def first(results: Results) -> pd.DataFrame:
    return results.trials.head(1)
