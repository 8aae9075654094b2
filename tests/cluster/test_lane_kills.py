"""What an experiment survives. Processes are really killed or stopped, at moments that its console shows."""

import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import psutil
import pytest
import ray
from cluster.test_lanes import BASE
from rich.console import Console

from bioimg import runner
from bioimg.cluster import lane_pool, ray_session
from bioimg.config import TrialConfig
from bioimg.errors import UserError
from bioimg.experiment import EarlyStopping, Experiment
from bioimg.results.result_store import Results, read_results
from bioimg.run_options import RunOptions
from support import PROJECT, toys
from support.results import gone_on, on_record, same

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore"), pytest.mark.chaos]

GRID = [
    sys.executable,
    str(PROJECT / "experiments" / "grid.py"),
    "demo",
    "--no-early-stopping",
]
GRID += ["--weights", "none", "--image-size", "32", "--freeze", "none", "--batch-size", "32"]
WORKER, CONTROLLER, BOARD, FOLLOWER = (
    "RayTrainWorker",
    "TrainController",
    "Coordinator",
    "ImplicitFunc",
)


@pytest.fixture(scope="module")
def machine():
    """Two CPUs, whatever the machine has."""
    ray.init(address="local", num_cpus=2, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


def experiment(stop: EarlyStopping | None = None, **fields) -> Experiment:
    axes = {name: value for name, value in fields.items() if isinstance(value, tuple)}
    fixed = {name: value for name, value in fields.items() if name not in axes}
    base = TrialConfig(**{**{name: getattr(BASE, name) for name in BASE.__slots__}, **fixed})
    return Experiment(name=toys.Name("grid"), base=base, axes=axes, early_stopping=stop)


def go(
    asked: Experiment, folder: Path, file: io.StringIO | None = None, code: int = 0, **settings
) -> Results:
    assert (
        runner.run_experiment(
            asked,
            RunOptions(out=str(folder), report=False, **settings),
            Console(file=file or io.StringIO()),
        )
        == code
    )
    return read_results(folder)


def ours(text: str) -> list[psutil.Process]:
    """Our processes with a text in their command line, in the order of their start. Some may end while this looks."""
    every = {process.pid for process in psutil.Process().children(recursive=True)}
    told = [p for p in psutil.process_iter(["cmdline", "create_time"]) if p.pid in every]
    return sorted(
        (p for p in told if text in " ".join(p.info["cmdline"] or [])),
        key=lambda p: p.info["create_time"],
    )


def processes(name: str) -> list[int]:
    """Our processes that run an actor of this class."""
    return [process.pid for process in ours(f"ray::{name}")]


class When(io.StringIO):
    """A console that strikes once, when a text that matches a pattern is printed. `before`: what the folder held then."""

    def __init__(self, pattern: str, folder: Path | str, strike: Callable[[], object]) -> None:
        super().__init__()
        self._pattern, self._folder, self._strike = pattern, folder, strike
        self.before = pd.DataFrame()

    def write(self, text: str) -> int:
        if re.search(self._pattern, text) and self.before.empty:
            self.before = on_record(self._folder)
            self._strike()
        return super().write(text)


def send(name: str, what: signal.Signals, which: int = -1) -> Callable[[], None]:
    return lambda: os.kill(processes(name)[which], what)


def test_only_its_owner_can_read_ray_s_token_and_the_dashboard_listens_on_loopback(machine):
    token = Path.home() / ".ray" / "auth_token"
    token.chmod(0o644)  # as Ray writes it
    ray_session.start_local_ray()
    assert token.stat().st_mode & 0o777 == 0o600
    dashboard = ours("dashboard.py")
    heard = {
        address.laddr
        for process in dashboard
        for address in process.net_connections("tcp")
        if address.status == "LISTEN"
    }
    _, port = ray._private.worker._global_node.webui_url.rsplit(":", 1)
    assert {address.ip for address in heard if address.port == int(port)} == {"127.0.0.1"}


STARTED = """
import os, ray
from pathlib import Path
from bioimg.cluster import ray_session
os.umask(0o022)
token, init = Path.home() / ".ray" / "auth_token", ray.init
def noting(**how):
    print(token.exists() and f"{token.stat().st_mode & 0o777:o}")
    init(num_cpus=1, **how)
ray.init = noting
ray_session.start_local_ray()
print(len(token.read_text()), ray.get(ray.remote(lambda: "answers").remote()))
"""


def test_ray_s_first_token_is_never_readable_by_others_and_lets_its_owner_in(tmp_path):
    named = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS")
    home = {
        **{name: value for name, value in os.environ.items() if name not in named},
        "HOME": str(tmp_path),
    }
    ran = subprocess.run([sys.executable, "-c", STARTED], env=home, capture_output=True, text=True)
    assert ran.stdout.splitlines() == ["600", "64 answers"], ran.stderr


@pytest.mark.parametrize(
    "held",
    [
        {"RAY_AUTH_MODE": "disabled"},
        {"RAY_AUTH_TOKEN": "a" * 64},
        {"RAY_AUTH_TOKEN_PATH": "/elsewhere"},
    ],
)
def test_no_token_is_made_where_the_environment_has_another_or_asks_for_none(
    held, tmp_path, monkeypatch
):
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(*next(iter(held.items())))
    ray_session.create_auth_token(tmp_path / "auth_token")
    assert not (tmp_path / "auth_token").exists()


@pytest.mark.parametrize("name", [WORKER, CONTROLLER, FOLLOWER])
def test_whatever_process_is_killed_costs_nothing_but_time(machine, tmp_path, name, capsys):
    asked = experiment(
        stop=EarlyStopping(grace_period=2, reduction_factor=2), epochs=6, seed=(0, 1)
    )
    file = When("epoch 2/6", tmp_path / "struck", send(name, signal.SIGKILL))
    struck = go(asked, tmp_path / "struck", file, lanes=1)
    gone_on(file.before, struck.epochs)
    assert "Traceback" not in capsys.readouterr().err, "Ray's log belongs into its file"
    same(struck, go(asked, tmp_path / "local", local=True))


@pytest.mark.parametrize("which", [0, 1])
def test_one_of_two_workers_is_killed_and_the_trial_goes_on(machine, tmp_path, which):
    asked = experiment(epochs=4, workers=2)
    file = When("epoch 2/4", tmp_path / "struck", send(WORKER, signal.SIGKILL, which))
    struck = go(asked, tmp_path / "struck", file)
    gone_on(file.before, struck.epochs)
    same(struck, go(asked, tmp_path / "undisturbed"))


def test_a_worker_that_hangs_is_noticed_and_replaced(machine, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S", "3")
    asked = experiment(epochs=4)
    file = When("epoch 2/4", tmp_path / "struck", send(WORKER, signal.SIGSTOP))
    struck = go(asked, tmp_path / "struck", file, lanes=1)
    gone_on(file.before, struck.epochs)
    same(struck, go(asked, tmp_path / "local", local=True))


def test_a_controller_that_hangs_holds_nobody_up(machine, tmp_path):
    asked = experiment(epochs=4, seed=(0, 1))
    file = When("epoch 2/4", tmp_path / "struck", send(CONTROLLER, signal.SIGSTOP))
    try:
        struck = go(asked, tmp_path / "struck", file, lanes=1)
    finally:  # the end of the program would end it, and the board that it knows
        for pid in (processes(CONTROLLER)[-1], *processes(BOARD)):
            os.kill(pid, signal.SIGKILL)
    gone_on(file.before, struck.epochs)
    same(struck, go(asked, tmp_path / "local", local=True))


@pytest.mark.parametrize("what", [signal.SIGKILL, signal.SIGSTOP])
def test_the_loss_of_the_board_ends_the_experiment_with_a_message_and_the_rerun_goes_on(
    machine, tmp_path, monkeypatch, what
):
    monkeypatch.setattr(lane_pool, "COORDINATOR_TIMEOUT_S", 5)
    asked = experiment(epochs=4, seed=(0, 1))
    file = When("epoch 2/4", tmp_path / "struck", send(BOARD, what))
    with pytest.raises(
        UserError, match=r"the board.*was lost.*run the same command again to resume"
    ):
        go(asked, tmp_path / "struck", file, lanes=1)
    assert not list((tmp_path / "struck").rglob("error.txt")), "a trial was blamed"
    struck = go(asked, tmp_path / "struck", lanes=1)
    gone_on(file.before, struck.epochs)
    same(struck, go(asked, tmp_path / "local", local=True))


def test_the_loss_of_ray_s_gcs_alone_is_told_at_once_and_the_rerun_goes_on(tmp_path):
    """In a process of its own, which Ray would end after a minute with another code, as it ends its agents."""
    command = [*GRID, "--epochs", "30", "--lanes", "1", "--out", str(tmp_path / "out")]
    environment = {
        name: value
        for name, value in os.environ.items()
        if name != "RAY_gcs_rpc_server_reconnect_timeout_s"
    }
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, **piped) as program:
        next(line for line in program.stdout if "epoch 2/30" in line)
        before = on_record(tmp_path / "out")
        children = psutil.Process(program.pid).children(recursive=True)
        next(process for process in children if process.name() == "gcs_server").kill()
        said = program.communicate()[1]
    assert program.returncode == 2
    assert re.fullmatch(
        r"error: gcs_server, .* was lost with exit code -9.*run the same command again to resume\.\n",
        said,
    )
    again = subprocess.run([*command, "--local"], capture_output=True, text=True, check=True)
    epochs = read_results(tmp_path / "out").epochs
    assert epochs["epoch"].tolist() == list(range(1, 31)), again.stdout + again.stderr
    gone_on(before, epochs)


def test_a_trial_that_kills_its_worker_is_given_up_and_the_next_goes_on(machine, tmp_path):
    """A kill is what Linux does to a process when memory runs out."""
    asked = experiment(model="deadly", image_size=16, batch_size=(12, 24), epochs=2)
    rows = go(asked, tmp_path, lanes=1, code=1).trials.set_index("batch_size")
    assert rows["status"].to_dict() == {12: "completed", 24: "failed"}
    assert re.search(r"its worker was lost 3 times.*the last time with: .*died", rows["error"][24])


@pytest.fixture
def cage() -> Iterator[None]:
    """A control group whose processes Linux kills when they take more than 200 MB."""
    try:
        toys.CAGE.mkdir(exist_ok=True)
        for name, value in toys.LIMITS.items():
            (toys.CAGE / name).write_text(str(value))
    except OSError as error:
        pytest.skip(
            f"needs root and a control group of its own, to let a process run out of memory: {error}"
        )
    yield
    toys.CAGE.rmdir()


def test_a_trial_that_linux_kills_for_want_of_memory_is_given_up_and_the_next_goes_on(
    machine, cage, tmp_path
):
    asked = experiment(model="hungry", image_size=16, batch_size=(24, 12), epochs=2)
    rows = go(asked, tmp_path, lanes=1, code=1).trials.set_index("batch_size")
    assert rows["status"].to_dict() == {12: "completed", 24: "failed"}
    assert re.search(
        r"lost 3 times.*If memory ran out.*[lL]ower `batch_size` or `image_size`", rows["error"][24]
    )
    assert "oom_kill 3" in (toys.CAGE / toys.KILLS).read_text()


def test_a_trial_that_runs_out_of_memory_says_so_and_how_to_need_less(machine, tmp_path):
    asked = experiment(model="greedy", image_size=16, batch_size=(12, 6), epochs=1)
    rows = go(asked, tmp_path, lanes=1, code=1).trials.set_index("batch_size")
    assert rows["status"].to_dict() == {6: "completed", 12: "failed"}
    assert re.search(
        r"OutOfMemoryError: CUDA out of memory.*Lower `batch_size` or `image_size`",
        rows["error"][12],
    )


def test_an_error_that_all_workers_raise_alike_is_recorded_at_once(machine, tmp_path):
    asked = experiment(model="greedy", image_size=16, batch_size=24, epochs=2, workers=2)
    row = go(asked, tmp_path, code=1).trials.iloc[0]
    assert row["error"].startswith("OutOfMemoryError: CUDA out of memory"), (
        "it was tried again until its lane gave up"
    )
