"""Machines and programs that come and go. Each test has a Ray of its own."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import ray
from ray.cluster_utils import Cluster

from bioimg.errors import UserError
from bioimg.results.result_store import read_results
from support.consoles import ActingConsole
from support.experiments import DEMO_COMMAND, SMALL_FLAGS, grid_experiment, run_experiment
from support.processes import processes_of_test
from support.results import (
    assert_no_epoch_repeated,
    assert_same_results,
    recorded_epochs,
)

pytestmark = [pytest.mark.nightly, pytest.mark.filterwarnings("ignore")]


@pytest.mark.parametrize("end", [[signal.SIGKILL], [signal.SIGINT, signal.SIGINT]])
def test_a_killed_program_leaves_no_process_behind_and_the_rerun_goes_on(tmp_path, end):
    command = [*DEMO_COMMAND, *SMALL_FLAGS, "--epochs", "30", "--out", str(tmp_path / "out")]
    environment = {**os.environ, "OF_THIS_TEST": str(tmp_path)}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as program:
        heard = next(line for line in program.stdout if "epoch 2/30" in line)
        ours, before = processes_of_test(tmp_path), recorded_epochs(tmp_path / "out")
        assert len(ours) > 5, heard
        for what in end:
            program.send_signal(what)
    psutil.wait_procs(ours, timeout=30)
    assert not (left := processes_of_test(tmp_path)), [process.info["cmdline"] for process in left]
    again = subprocess.run([*command, "--local"], env=environment, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    epochs = read_results(tmp_path / "out").epochs
    assert len(epochs) == 30
    assert_no_epoch_repeated(before, epochs)


def test_lanes_come_and_go_with_machines(tmp_path):
    """In a process of its own, which Ray may end with the cluster; so it reports when it has seen everything."""
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    told = subprocess.run(
        [sys.executable, __file__, str(tmp_path)], env=paths, capture_output=True, text=True
    )
    assert "as on one machine" in told.stdout, told.stdout + told.stderr


def come_and_go(folder: Path) -> None:
    """No machine at first; then one, and a second; both are lost in mid-trial; another joins."""
    asked = grid_experiment(epochs=4, seed=(0, 1, 2, 3))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    machines = []

    class Machines(ActingConsole):
        def write(self, text: str) -> int:
            if "no lane can run" in text:
                machines.append(cluster.add_node(num_cpus=1))
            if "epoch 1/4" in text and len(machines) == 1:
                machines.append(cluster.add_node(num_cpus=1))
            return super().write(text)

    def lose() -> None:
        for machine in machines:
            cluster.remove_node(machine, allow_graceful=False)

    try:
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        with pytest.raises(
            UserError, match=r"number of devices, which is 0 .CPU.*set --lanes to the number"
        ):
            run_experiment(asked, folder / "struck")
        file = Machines(r"\[[12]/4\].*epoch 2/4", folder / "struck", lose)
        struck = run_experiment(asked, folder / "struck", file, lanes=2)
        assert_no_epoch_repeated(file.before, struck.epochs)
        assert file.getvalue().count("no lane can run until the cluster has 1 free CPU") == 2
        assert len(machines) == 3
        assert_same_results(struck, run_experiment(asked, folder / "local", local=True))
        print("as on one machine", flush=True)
    finally:
        ray.shutdown()
        cluster.shutdown()


def test_an_address_that_is_no_cluster_is_told_within_a_minute(tmp_path):
    environment = {**os.environ, "RAY_ADDRESS": "127.0.0.1:1"}
    command = [*DEMO_COMMAND, *SMALL_FLAGS, "--epochs", "1", "--out", str(tmp_path / "out")]
    told = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert told.returncode == 2
    assert (
        "RAY_ADDRESS is '127.0.0.1:1', but must be the address of a running cluster that lets you in"
        in told.stderr
    )


if __name__ == "__main__":
    come_and_go(Path(sys.argv[1]))
