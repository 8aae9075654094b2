"""A program on a terminal: the terminal is closed, or Ctrl-C is pressed in it."""

import contextlib
import os
import pty
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from bioimg.results.result_store import read_results
from support.experiments import DEMO_COMMAND, SMALL_FLAGS
from support.processes import processes_of_test
from support.results import assert_no_epoch_repeated, saved_epochs

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.usefixtures("no_ray"),
]


def read_screen(screen: int) -> str:
    """Return what was written since the last call, or nothing once no process has the terminal."""
    with contextlib.suppress(OSError):
        return os.read(screen, 100_000).decode(errors="replace")
    return ""


def press_ctrl_c_twice(screen: int) -> str:
    """Return what the program writes until it has ended."""
    os.write(screen, b"\x03\x03")
    return "".join(iter(lambda: read_screen(screen), ""))


def close_terminal(screen: int) -> str:
    os.close(screen)
    return ""


@pytest.mark.skipif(
    shutil.which("setsid") is None,
    reason="needs setsid, of util-linux, to give a program a terminal",
)
@pytest.mark.parametrize("end", [close_terminal, press_ctrl_c_twice])
def test_program_ended_by_its_terminal_leaves_no_process_and_resumes(
    tmp_path: Path, end: Callable[[int], str]
) -> None:
    command = [*DEMO_COMMAND, *SMALL_FLAGS, "--epochs", "30", "--out", str(tmp_path / "out")]
    environment = {**os.environ, "OF_THIS_TEST": str(tmp_path), "TERM": "xterm"}
    screen, terminal = pty.openpty()
    streams = {"stdin": terminal, "stdout": terminal, "stderr": terminal}
    with subprocess.Popen(["setsid", "--ctty", *command], env=environment, **streams):
        os.close(terminal)
        while "2/30" not in (text := read_screen(screen)):
            assert text, "the program ended"
        running = processes_of_test(tmp_path)
        before = saved_epochs(tmp_path / "out")
        assert len(running) > 5, "Ray wasn't running"
        last_output = end(screen)
    psutil.wait_procs(running, timeout=30)
    left = processes_of_test(tmp_path)
    assert not left, [process.info["cmdline"] for process in left]
    assert "Traceback" not in last_output
    again = subprocess.run([*command, "--local"], env=environment, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    epochs = read_results(tmp_path / "out").epochs
    assert len(epochs) == 30
    assert_no_epoch_repeated(before, epochs)
