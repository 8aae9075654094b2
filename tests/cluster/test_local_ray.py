"""Ray on this machine alone: what a run starts, and what it survives."""

import functools
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from bioimg.cluster import ray_session
from bioimg.errors import UserError
from bioimg.run_options import RunOptions
from support.consoles import ActingConsole
from support.experiments import grid_experiment, run_experiment
from support.processes import CONTROLLER, child_processes, signal_actor
from support.results import assert_no_epoch_repeated, assert_same_results

pytestmark = [
    pytest.mark.ray,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.usefixtures("no_ray"),
]


@pytest.fixture
def one_cpu(monkeypatch) -> Iterator[None]:
    """Let Ray start with one CPU, so that there is room for one lane."""
    monkeypatch.setattr(ray, "init", functools.partial(ray.init, num_cpus=1))
    yield
    ray.shutdown()


def listening_ports() -> dict[str, set[int]]:
    """Return the ports of Ray's dashboard by their address."""
    ports: dict[str, set[int]] = {}
    for process in child_processes("dashboard.py"):
        for connection in process.net_connections("tcp"):
            if connection.status == "LISTEN":
                ports.setdefault(connection.laddr.ip, set()).add(connection.laddr.port)
    return ports


def test_killed_controller_gives_its_only_cpu_to_the_next_lane(one_cpu, tmp_path):
    """Without a dashboard, Ray Train doesn't notice that its controller was killed."""
    experiment = grid_experiment(epochs=4, seed=(0, 1))
    kill = signal_actor(CONTROLLER, signal.SIGKILL)
    console = ActingConsole("epoch 2/4", tmp_path / "disturbed", kill)
    results = run_experiment(experiment, tmp_path / "disturbed", console)
    assert_no_epoch_repeated(console.before, results.epochs)
    assert_same_results(results, run_experiment(experiment, tmp_path / "local", local=True))


@pytest.mark.parametrize("dashboard", [False, pytest.param(True, marks=pytest.mark.nightly)])
def test_dashboard_runs_only_if_it_is_asked_for(one_cpu, tmp_path, dashboard):
    seen = {}

    def look() -> None:
        seen.update(listening_ports())
        seen["url"] = ray._private.worker._global_node.webui_url

    console = ActingConsole("epoch 1/1", tmp_path, look)
    run_experiment(grid_experiment(epochs=1), tmp_path, console, dashboard=dashboard)
    url = seen.pop("url")
    assert bool(url) == dashboard
    if dashboard:
        _, port = url.rsplit(":", 1)
        assert {ip for ip, ports in seen.items() if int(port) in ports} == {"127.0.0.1"}


def test_dashboard_is_refused_where_no_ray_runs():
    with pytest.raises(UserError, match="must be False with --local, which uses no Ray"):
        RunOptions(local=True, dashboard=True)


@pytest.mark.parametrize("user_address", [None, "http://elsewhere:8265"])
def test_address_of_the_users_dashboard_stays(one_cpu, monkeypatch, user_address):
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    if user_address:
        monkeypatch.setenv("RAY_API_SERVER_ADDRESS", user_address)
    ray_session.start_local_ray()
    assert os.environ.get("RAY_API_SERVER_ADDRESS") == user_address


def test_token_is_private(one_cpu):
    token = Path.home() / ".ray" / "auth_token"
    ray_session.start_local_ray()
    token.chmod(0o644)  # as Ray writes it
    ray_session.start_local_ray()
    assert token.stat().st_mode & 0o777 == 0o600
