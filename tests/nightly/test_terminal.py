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
from support.results import assert_no_epoch_repeated, recorded_epochs

pytestmark = [pytest.mark.nightly, pytest.mark.filterwarnings("ignore")]


def shown(screen: int) -> str:
    """What the program has written since the last call; nothing once no process has the terminal any more."""
    with contextlib.suppress(OSError):
        return os.read(screen, 100_000).decode(errors="replace")
    return ""


def ctrl_c_twice(screen: int) -> str:
    os.write(screen, b"\x03\x03")
    return "".join(iter(lambda: shown(screen), ""))


def close(screen: int) -> str:
    os.close(screen)
    return ""


@pytest.mark.skipif(
    shutil.which("setsid") is None,
    reason="needs setsid, of util-linux, to give a program a terminal",
)
@pytest.mark.parametrize("end", [close, ctrl_c_twice])
def test_a_program_whose_terminal_ends_it_leaves_no_process_behind_and_the_rerun_goes_on(
    tmp_path: Path, end: Callable[[int], str]
) -> None:
    command = [*DEMO_COMMAND, *SMALL_FLAGS, "--epochs", "30", "--out", str(tmp_path / "out")]
    environment = {**os.environ, "OF_THIS_TEST": str(tmp_path), "TERM": "xterm"}
    screen, terminal = pty.openpty()
    on_it = {"stdin": terminal, "stdout": terminal, "stderr": terminal}
    with subprocess.Popen(["setsid", "--ctty", *command], env=environment, **on_it):
        os.close(terminal)
        while "2/30" not in (text := shown(screen)):
            assert text, "the program ended"
        ours, before = processes_of_test(tmp_path), recorded_epochs(tmp_path / "out")
        assert len(ours) > 5, "Ray wasn't under way"
        said = end(screen)
    psutil.wait_procs(ours, timeout=30)
    assert not (left := processes_of_test(tmp_path)), [process.info["cmdline"] for process in left]
    assert "Traceback" not in said
    again = subprocess.run([*command, "--local"], env=environment, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    epochs = read_results(tmp_path / "out").epochs
    assert len(epochs) == 30
    assert_no_epoch_repeated(before, epochs)
