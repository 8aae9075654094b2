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
from support.results import assert_no_epoch_repeated, assert_same_results, saved_epochs

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.usefixtures("no_ray"),
]


@pytest.mark.parametrize("signals", [[signal.SIGKILL], [signal.SIGINT, signal.SIGINT]])
def test_killed_program_leaves_no_process_and_resumes(tmp_path, signals):
    command = [*DEMO_COMMAND, *SMALL_FLAGS, "--epochs", "30", "--out", str(tmp_path / "out")]
    environment = {**os.environ, "OF_THIS_TEST": str(tmp_path)}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as program:
        assert program.stdout is not None
        line = next(line for line in program.stdout if "epoch 2/30" in line)
        running = processes_of_test(tmp_path)
        before = saved_epochs(tmp_path / "out")
        assert len(running) > 5, f"Ray wasn't running at: {line}"
        for signal_number in signals:
            program.send_signal(signal_number)
    psutil.wait_procs(running, timeout=30)
    left = processes_of_test(tmp_path)
    assert not left, [process.info["cmdline"] for process in left]
    again = subprocess.run([*command, "--local"], env=environment, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    epochs = read_results(tmp_path / "out").epochs
    assert len(epochs) == 30
    assert_no_epoch_repeated(before, epochs)


def test_lanes_come_and_go_with_machines(tmp_path):
    """Run in a process of its own, which Ray may end with the cluster after all has been seen."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, __file__, str(tmp_path)]
    program = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert "as on one machine" in program.stdout, program.stdout + program.stderr


def change_machines(folder: Path) -> None:
    """Start with no machine, add two, lose both in the middle of trials, and add another."""
    experiment = grid_experiment(epochs=4, seed=(0, 1, 2, 3))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    machines = []

    class AddingConsole(ActingConsole):
        """Add a machine when the program waits for one, and a second one soon after."""

        def write(self, text: str) -> int:
            if "no lane can run" in text:
                machines.append(cluster.add_node(num_cpus=1))
            if "epoch 1/4" in text and len(machines) == 1:
                machines.append(cluster.add_node(num_cpus=1))
            return super().write(text)

    def lose_machines() -> None:
        for machine in machines:
            cluster.remove_node(machine, allow_graceful=False)

    try:
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        with pytest.raises(
            UserError, match=r"number of devices, which is 0 .CPU.*set --lanes to the number"
        ):
            run_experiment(experiment, folder / "struck")
        console = AddingConsole(r"\[[12]/4\].*epoch 2/4", folder / "struck", lose_machines)
        struck = run_experiment(experiment, folder / "struck", console, lanes=2)
        assert_no_epoch_repeated(console.before, struck.epochs)
        waits = console.getvalue().count("no lane can run until the cluster has 1 free CPU")
        assert waits == 2
        assert len(machines) == 3
        assert_same_results(struck, run_experiment(experiment, folder / "local", local=True))
        print("as on one machine", flush=True)
    finally:
        ray.shutdown()
        cluster.shutdown()


def test_wrong_cluster_address_is_reported_within_a_minute(tmp_path):
    environment = {**os.environ, "RAY_ADDRESS": "127.0.0.1:1"}
    command = [*DEMO_COMMAND, *SMALL_FLAGS, "--epochs", "1", "--out", str(tmp_path / "out")]
    program = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert program.returncode == 2
    message = "RAY_ADDRESS is '127.0.0.1:1', but must be the address of a running cluster"
    assert message in program.stderr


if __name__ == "__main__":
    change_machines(Path(sys.argv[1]))
