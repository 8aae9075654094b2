"""cluster.yaml's cluster, run by Ray's own autoscaler; its machines are processes here."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
import yaml
from ray._common.utils import reset_ray_address
from ray.autoscaler._private.fake_multi_node.node_provider import (
    FAKE_HEAD_NODE_ID,
    FAKE_HEAD_NODE_TYPE,
)
from ray.autoscaler._private.util import prepare_config

from bioimg.cluster import devices
from bioimg.results.result_store import read_results
from support import PROJECT
from support.experiments import DEMO_COMMAND, SMALL_FLAGS
from support.processes import free_port, wait_until

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.usefixtures("no_ray"),
]

FILE = PROJECT / "cluster.yaml"
IDLE = 0.1
"""Minutes after which a machine goes."""
LONG = "100000"
"""Epochs of a trial that isn't waited for."""


def adapted_cluster_file(address: str) -> dict[str, Any]:
    """Return cluster.yaml with machines of this test, a short idle time, and no installation."""
    file = prepare_config(yaml.safe_load(FILE.read_text(encoding="utf-8")))
    kinds = file["available_node_types"]
    resources = {"CPU": 1, "object_store_memory": 10**8}
    return {
        **file,
        "idle_timeout_minutes": IDLE,
        "head_node_type": FAKE_HEAD_NODE_TYPE,
        "available_node_types": {
            FAKE_HEAD_NODE_TYPE: {**kinds["head"], "node_config": {}},
            "worker": {**kinds["worker"], "node_config": {}, "resources": resources},
        },
        "provider": {
            "type": "external",  # "fake_multinode" lacks a file of defaults in Ray's wheel
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "gcs_address": address,
            "head_node_id": FAKE_HEAD_NODE_ID,
            "launch_multiple": True,
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "docker": {},
        "auth": {},
        "file_mounts": {},
    }


@contextlib.contextmanager
def growing_cluster(folder: Path) -> Iterator[None]:
    """Start a head without a device, and an autoscaler that may add machines of one each.

    This process joins the cluster.
    """
    address = f"{ray.util.get_node_ip_address()}:{free_port()}"
    (folder / "cluster.json").write_text(json.dumps(adapted_cluster_file(address)))
    fake = {"RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID, "RAY_NODE_TYPE_NAME": FAKE_HEAD_NODE_TYPE}
    fake |= {"RAY_FAKE_CLUSTER": "1", "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID}
    environment = {**os.environ, **fake, "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
    ports = [
        f"--port={address.split(':')[1]}",
        f"--ray-client-server-port={free_port()}",
        f"--dashboard-port={free_port()}",
    ]
    small = ["--num-cpus=0", "--object-store-memory=200000000", "--disable-usage-stats"]
    start = [
        "-m",
        "ray.scripts.scripts",
        "start",
        "--head",
        "--block",
        f"--autoscaling-config={folder / 'cluster.json'}",
    ]
    with (folder / "head.log").open("wb") as log:
        head = subprocess.Popen(
            [sys.executable, *start, *ports, *small], env=environment, stdout=log, stderr=log
        )
    try:
        wait_until(lambda: joined(address), "the head to start")
        wait_until(
            lambda: devices.count_devices() == ("CPU", 2),
            "the autoscaler to say how far the cluster can grow",
        )
        os.environ["RAY_ADDRESS"] = address
        yield
    finally:
        ray.shutdown()
        children = psutil.Process(head.pid).children(recursive=True)
        head.terminate()
        head.wait(timeout=60)  # it drains its node for half a minute
        reset_ray_address()  # as `ray stop` does: Ray Train would look for that cluster later
        for process in psutil.wait_procs(children, timeout=10)[1]:
            process.kill()


def joined(address: str) -> bool:
    try:
        ray.init(address=address, log_to_driver=False, logging_level="CRITICAL")
    except (ConnectionError, RuntimeError):
        return False
    return True


def machines() -> int:
    """Return how many machines there are, without the head."""
    return sum(node["Alive"] for node in ray.nodes()) - 1


def statuses(out: Path) -> list[str]:
    return read_results(out).trials["status"].tolist() if (out / "trials.parquet").exists() else []


def run_scenario(scenario: Callable[[Path], None], folder: Path) -> None:
    """Run a scenario in a process of its own, which Ray may end with the cluster."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "RAY_AUTH_MODE": "disabled",
    }
    command = [sys.executable, __file__, scenario.__name__, str(folder)]
    program = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert "all has been seen" in program.stdout, program.stdout + program.stderr


@contextlib.contextmanager
def grid(folder: Path, *flags: str) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [*DEMO_COMMAND, *SMALL_FLAGS, *flags, "--out", str(folder / "out")]
    ) as program:
        yield program


@pytest.mark.timeout(600)
@pytest.mark.parametrize("newer", ["1", pytest.param("0", marks=pytest.mark.campaign)])
def test_machines_come_for_lanes_and_leave_after_the_last_trial(tmp_path, monkeypatch, newer):
    """With the newer autoscaler, which `ray up` starts, and with the older one."""
    monkeypatch.setenv("RAY_enable_autoscaler_v2", newer)
    run_scenario(grow_and_shrink, tmp_path)


def grow_and_shrink(folder: Path) -> None:
    """Two trials, then more trials than there can be machines.

    A machine without work may stay while another one works, since Train asks Ray for the devices
    of each lane, and Ray may keep that machine for them.
    """
    with growing_cluster(folder):
        with grid(folder, "--epochs", "1", LONG) as program:
            wait_until(lambda: machines() == 2, "a machine for each trial", 90)
            wait_until(
                lambda: "completed" in statuses(folder / "out"), "the shorter trial to end", 90
            )
            program.send_signal(signal.SIGINT)  # the other trial is far from its end
        with grid(folder, "--epochs", "1", "--seed", "0", "1", "2", "3") as program:
            wait_until(lambda: machines() == 2, "as many machines as there can be", 90)
        assert program.returncode == 0
        assert statuses(folder / "out") == ["completed"] * 4
        wait_until(
            lambda: machines() == 0, "all machines to go", 270
        )  # Train's wishes for the interrupted lanes last 180 s


@pytest.mark.campaign
def test_machines_leave_after_their_program_is_killed(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_enable_autoscaler_v2", "1")
    run_scenario(kill_program, tmp_path)


def kill_program(folder: Path) -> None:
    """What Ray Train asked for is forgotten after three minutes."""
    with growing_cluster(folder):
        with grid(folder, "--epochs", "100000") as program:
            wait_until(lambda: machines() == 1, "a machine for the trial", 90)
            wait_until(lambda: list(folder.rglob("parts/*.epochs.parquet")), "the first epoch", 90)
            program.kill()
        wait_until(lambda: machines() == 0, "the machine to go", 300)


if __name__ == "__main__":
    {"grow_and_shrink": grow_and_shrink, "kill_program": kill_program}[sys.argv[1]](
        Path(sys.argv[2])
    )
    print("all has been seen")
