"""What an experiment survives. Processes are really killed or stopped, at moments that its console shows."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import ray

from bioimg.cluster import lane_pool, ray_session
from bioimg.errors import UserError
from bioimg.experiment import EarlyStopping
from bioimg.results.result_store import read_results
from support import toys
from support.consoles import ActingConsole
from support.experiments import DEMO_COMMAND, SMALL_FLAGS, grid_experiment, run_experiment
from support.processes import (
    CONTROLLER,
    COORDINATOR,
    TUNE_TRIAL,
    WORKER,
    actor_processes,
    child_processes,
    signal_actor,
)
from support.results import assert_no_epoch_repeated, assert_same_results, recorded_epochs

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore")]


def test_only_its_owner_can_read_ray_s_token_and_the_dashboard_listens_on_loopback(shared_ray):
    token = Path.home() / ".ray" / "auth_token"
    token.chmod(0o644)  # as Ray writes it
    ray_session.start_local_ray()
    assert token.stat().st_mode & 0o777 == 0o600
    dashboard = child_processes("dashboard.py")
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


@pytest.mark.parametrize("name", [WORKER, CONTROLLER, TUNE_TRIAL])
def test_whatever_process_is_killed_costs_nothing_but_time(shared_ray, tmp_path, name, capsys):
    asked = grid_experiment(
        stop=EarlyStopping(grace_period=2, reduction_factor=2), epochs=6, seed=(0, 1)
    )
    file = ActingConsole("epoch 2/6", tmp_path / "struck", signal_actor(name, signal.SIGKILL))
    struck = run_experiment(asked, tmp_path / "struck", file, lanes=1)
    assert_no_epoch_repeated(file.before, struck.epochs)
    assert "Traceback" not in capsys.readouterr().err, "Ray's log belongs into its file"
    assert_same_results(struck, run_experiment(asked, tmp_path / "local", local=True))


@pytest.mark.nightly
@pytest.mark.parametrize("which", [0, 1])
def test_one_of_two_workers_is_killed_and_the_trial_goes_on(shared_ray, tmp_path, which):
    asked = grid_experiment(epochs=4, workers=2)
    file = ActingConsole(
        "epoch 2/4", tmp_path / "struck", signal_actor(WORKER, signal.SIGKILL, which)
    )
    struck = run_experiment(asked, tmp_path / "struck", file)
    assert_no_epoch_repeated(file.before, struck.epochs)
    assert_same_results(struck, run_experiment(asked, tmp_path / "undisturbed"))


@pytest.mark.nightly
def test_a_worker_that_hangs_is_noticed_and_replaced(shared_ray, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S", "3")
    asked = grid_experiment(epochs=4)
    file = ActingConsole("epoch 2/4", tmp_path / "struck", signal_actor(WORKER, signal.SIGSTOP))
    struck = run_experiment(asked, tmp_path / "struck", file, lanes=1)
    assert_no_epoch_repeated(file.before, struck.epochs)
    assert_same_results(struck, run_experiment(asked, tmp_path / "local", local=True))


@pytest.mark.nightly
def test_a_controller_that_hangs_holds_nobody_up(shared_ray, tmp_path):
    asked = grid_experiment(epochs=4, seed=(0, 1))
    file = ActingConsole("epoch 2/4", tmp_path / "struck", signal_actor(CONTROLLER, signal.SIGSTOP))
    try:
        struck = run_experiment(asked, tmp_path / "struck", file, lanes=1)
    finally:  # the end of the program would end it, and the board that it knows
        for pid in (actor_processes(CONTROLLER)[-1], *actor_processes(COORDINATOR)):
            os.kill(pid, signal.SIGKILL)
    assert_no_epoch_repeated(file.before, struck.epochs)
    assert_same_results(struck, run_experiment(asked, tmp_path / "local", local=True))


@pytest.mark.parametrize(
    "what",
    [signal.SIGKILL, pytest.param(signal.SIGSTOP, marks=pytest.mark.nightly)],
)
def test_the_loss_of_the_board_ends_the_experiment_with_a_message_and_the_rerun_goes_on(
    shared_ray, tmp_path, monkeypatch, what
):
    monkeypatch.setattr(lane_pool, "COORDINATOR_TIMEOUT_S", 5)
    asked = grid_experiment(epochs=4, seed=(0, 1))
    file = ActingConsole("epoch 2/4", tmp_path / "struck", signal_actor(COORDINATOR, what))
    with pytest.raises(
        UserError, match=r"the coordinator.*was lost.*run the same command again to resume"
    ):
        run_experiment(asked, tmp_path / "struck", file, lanes=1)
    assert not list((tmp_path / "struck").rglob("error.txt")), "a trial was blamed"
    struck = run_experiment(asked, tmp_path / "struck", lanes=1)
    assert_no_epoch_repeated(file.before, struck.epochs)
    assert_same_results(struck, run_experiment(asked, tmp_path / "local", local=True))


@pytest.mark.nightly
def test_the_loss_of_ray_s_gcs_alone_is_told_at_once_and_the_rerun_goes_on(tmp_path):
    """In a process of its own, which Ray would end after a minute with another code, as it ends its agents."""
    command = [
        *DEMO_COMMAND,
        *SMALL_FLAGS,
        "--epochs",
        "30",
        "--lanes",
        "1",
        "--out",
        str(tmp_path / "out"),
    ]
    environment = {
        name: value
        for name, value in os.environ.items()
        if name != "RAY_gcs_rpc_server_reconnect_timeout_s"
    }
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, **piped) as program:
        next(line for line in program.stdout if "epoch 2/30" in line)
        before = recorded_epochs(tmp_path / "out")
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
    assert_no_epoch_repeated(before, epochs)


def test_a_trial_that_kills_its_worker_is_given_up_and_the_next_goes_on(shared_ray, tmp_path):
    """A kill is what Linux does to a process when memory runs out."""
    asked = grid_experiment(model="deadly", image_size=16, batch_size=(12, 24), epochs=2)
    rows = run_experiment(asked, tmp_path, lanes=1, exit_code=1).trials.set_index("batch_size")
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


@pytest.mark.nightly
def test_a_trial_that_linux_kills_for_want_of_memory_is_given_up_and_the_next_goes_on(
    shared_ray, cage, tmp_path
):
    asked = grid_experiment(model="hungry", image_size=16, batch_size=(24, 12), epochs=2)
    rows = run_experiment(asked, tmp_path, lanes=1, exit_code=1).trials.set_index("batch_size")
    assert rows["status"].to_dict() == {12: "completed", 24: "failed"}
    assert re.search(
        r"lost 3 times.*If memory ran out.*[lL]ower `batch_size` or `image_size`", rows["error"][24]
    )
    assert "oom_kill 3" in (toys.CAGE / toys.KILLS).read_text()


@pytest.mark.nightly
def test_a_trial_that_runs_out_of_memory_says_so_and_how_to_need_less(shared_ray, tmp_path):
    asked = grid_experiment(model="greedy", image_size=16, batch_size=(12, 6), epochs=1)
    rows = run_experiment(asked, tmp_path, lanes=1, exit_code=1).trials.set_index("batch_size")
    assert rows["status"].to_dict() == {6: "completed", 12: "failed"}
    assert re.search(
        r"OutOfMemoryError: CUDA out of memory.*Lower `batch_size` or `image_size`",
        rows["error"][12],
    )


def test_an_error_that_all_workers_raise_alike_is_recorded_at_once(shared_ray, tmp_path):
    asked = grid_experiment(model="greedy", image_size=16, batch_size=24, epochs=2, workers=2)
    row = run_experiment(asked, tmp_path, exit_code=1).trials.iloc[0]
    assert row["error"].startswith("OutOfMemoryError: CUDA out of memory"), (
        "it was tried again until its lane gave up"
    )
