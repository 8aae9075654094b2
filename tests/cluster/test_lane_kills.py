"""What a run survives. Processes are really killed or stopped, when the console shows an epoch."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import psutil
import pytest

from bioimg.cluster import lane_pool, ray_session
from bioimg.errors import UserError
from bioimg.experiment import EarlyStopping, Experiment
from bioimg.results.result_store import Results, read_results
from support import toys
from support.consoles import ActingConsole
from support.experiments import (
    DEMO_COMMAND,
    LENIENT_ALPHA,
    SMALL_FLAGS,
    grid_experiment,
    run_experiment,
)
from support.processes import (
    CONTROLLER,
    COORDINATOR,
    TUNE_TRIAL,
    WORKER,
    actor_processes,
    signal_actor,
)
from support.results import assert_no_epoch_repeated, assert_same_results, saved_epochs

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def local_twin(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Experiment], Results]:
    """Return a function that runs an experiment in this process, once for all tests."""
    twins: dict[str, Results] = {}

    def run(experiment: Experiment) -> Results:
        key = repr(experiment)
        if key not in twins:
            folder = tmp_path_factory.mktemp("twin") / "out"
            twins[key] = run_experiment(experiment, folder, local=True)
        return twins[key]

    return run


TOKEN_SCRIPT = """
import os, ray
from pathlib import Path
from bioimg.cluster import ray_session
os.umask(0o022)
token, init = Path.home() / ".ray" / "auth_token", ray.init
def init_with_mode(**options):
    print(token.exists() and f"{token.stat().st_mode & 0o777:o}")
    init(num_cpus=1, **options)
ray.init = init_with_mode
ray_session.start_local_ray()
print(len(token.read_text()), ray.get(ray.remote(lambda: "answers").remote()))
"""


def test_first_token_is_private_from_its_creation(tmp_path):
    ray_names = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS")
    variables = {name: value for name, value in os.environ.items() if name not in ray_names}
    variables["HOME"] = str(tmp_path)
    process = subprocess.run(
        [sys.executable, "-c", TOKEN_SCRIPT], env=variables, capture_output=True, text=True
    )
    assert process.stdout.splitlines() == ["600", "64 answers"], process.stderr


@pytest.mark.parametrize(
    "variables",
    [
        {"RAY_AUTH_MODE": "disabled"},
        {"RAY_AUTH_TOKEN": "a" * 64},
        {"RAY_AUTH_TOKEN_PATH": "/elsewhere"},
    ],
)
def test_token_of_the_environment_prevents_a_new_one(variables, tmp_path, monkeypatch):
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(*next(iter(variables.items())))
    ray_session.create_auth_token(tmp_path / "auth_token")
    assert not (tmp_path / "auth_token").exists()


@pytest.mark.parametrize(
    "name", [WORKER, CONTROLLER, pytest.param(TUNE_TRIAL, marks=pytest.mark.nightly)]
)
def test_killed_process_costs_only_time(shared_ray, local_twin, tmp_path, name, capsys):
    """After two of six epochs, all layers are trained in place of the head."""
    experiment = grid_experiment(
        EarlyStopping(grace_period=2, reduction_factor=2, alpha=LENIENT_ALPHA),
        epochs=6,
        freeze="head-first",
        seed=(0, 1),
    )
    console = ActingConsole("epoch 2/6", tmp_path / "disturbed", signal_actor(name, signal.SIGKILL))
    results = run_experiment(experiment, tmp_path / "disturbed", console, lanes=1)
    assert_no_epoch_repeated(console.before, results.epochs)
    assert "Traceback" not in capsys.readouterr().err, "Ray's log belongs into its file"
    assert_same_results(results, local_twin(experiment))


@pytest.mark.nightly
@pytest.mark.parametrize("which", [0, 1])
def test_trial_survives_one_killed_worker_of_two(shared_ray, tmp_path, which):
    experiment = grid_experiment(epochs=4, workers=2, freeze="head-first")
    console = ActingConsole(
        "epoch 2/4", tmp_path / "disturbed", signal_actor(WORKER, signal.SIGKILL, which)
    )
    results = run_experiment(experiment, tmp_path / "disturbed", console)
    assert_no_epoch_repeated(console.before, results.epochs)
    assert_same_results(results, run_experiment(experiment, tmp_path / "undisturbed"))


@pytest.mark.nightly
def test_hanging_worker_is_replaced(shared_ray, local_twin, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S", "3")
    experiment = grid_experiment(epochs=4)
    console = ActingConsole(
        "epoch 2/4", tmp_path / "disturbed", signal_actor(WORKER, signal.SIGSTOP)
    )
    results = run_experiment(experiment, tmp_path / "disturbed", console, lanes=1)
    assert_no_epoch_repeated(console.before, results.epochs)
    assert_same_results(results, local_twin(experiment))


@pytest.mark.nightly
def test_hanging_controller_delays_nothing(shared_ray, local_twin, tmp_path):
    experiment = grid_experiment(epochs=4, seed=(0, 1))
    console = ActingConsole(
        "epoch 2/4", tmp_path / "disturbed", signal_actor(CONTROLLER, signal.SIGSTOP)
    )
    try:
        results = run_experiment(experiment, tmp_path / "disturbed", console, lanes=1)
    finally:  # the end of the program would end it, and the coordinator that it knows
        for pid in (actor_processes(CONTROLLER)[-1], *actor_processes(COORDINATOR)):
            os.kill(pid, signal.SIGKILL)
    assert_no_epoch_repeated(console.before, results.epochs)
    assert_same_results(results, local_twin(experiment))


@pytest.mark.parametrize(
    "what",
    [signal.SIGKILL, pytest.param(signal.SIGSTOP, marks=pytest.mark.nightly)],
)
def test_lost_coordinator_ends_the_run_and_rerun_resumes(
    shared_ray, local_twin, tmp_path, monkeypatch, what
):
    monkeypatch.setattr(lane_pool, "COORDINATOR_TIMEOUT_S", 5)
    experiment = grid_experiment(epochs=4, seed=(0, 1))
    console = ActingConsole("epoch 2/4", tmp_path / "disturbed", signal_actor(COORDINATOR, what))
    with pytest.raises(
        UserError, match=r"the coordinator.*was lost.*run the same command again to resume"
    ):
        run_experiment(experiment, tmp_path / "disturbed", console, lanes=1)
    assert not list((tmp_path / "disturbed").rglob("error.txt")), "a trial was blamed"
    results = run_experiment(experiment, tmp_path / "disturbed", lanes=1)
    assert_no_epoch_repeated(console.before, results.epochs)
    assert_same_results(results, local_twin(experiment))


@pytest.mark.nightly
def test_lost_gcs_ends_the_run_and_rerun_resumes(tmp_path):
    """Ray would end the program after a minute with another code, so it has its own process."""
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
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, **pipes) as program:
        next(line for line in program.stdout if "epoch 2/30" in line)
        before = saved_epochs(tmp_path / "out")
        children = psutil.Process(program.pid).children(recursive=True)
        next(process for process in children if process.name() == "gcs_server").kill()
        error_output = program.communicate()[1]
    assert program.returncode == 2
    assert re.fullmatch(
        r"error: gcs_server, .* was lost with exit code -9.*"
        r"run the same command again to resume\.\n",
        error_output,
    )
    again = subprocess.run([*command, "--local"], capture_output=True, text=True, check=True)
    epochs = read_results(tmp_path / "out").epochs
    assert epochs["epoch"].tolist() == list(range(1, 31)), again.stdout + again.stderr
    assert_no_epoch_repeated(before, epochs)


def test_trial_that_kills_its_worker_fails_alone(shared_ray, tmp_path):
    """Linux kills a process, too, when memory runs out."""
    experiment = grid_experiment(model="deadly", image_size=16, batch_size=(12, 24), epochs=2)
    rows = run_experiment(experiment, tmp_path, lanes=1, exit_code=1).trials.set_index("batch_size")
    assert rows["status"].to_dict() == {12: "completed", 24: "failed"}
    assert re.search(r"its worker was lost 3 times.*the last time with: .*died", rows["error"][24])


@pytest.fixture
def memory_limit() -> Iterator[None]:
    """Make a control group whose processes Linux kills when they take more than 200 MB."""
    try:
        toys.CAGE.mkdir(exist_ok=True)
        for name, value in toys.LIMITS.items():
            (toys.CAGE / name).write_text(str(value))
    except OSError as error:
        pytest.skip(f"needs root and a control group, to let a process run out of memory: {error}")
    yield
    toys.CAGE.rmdir()


@pytest.mark.nightly
def test_trial_killed_out_of_memory_fails_alone(shared_ray, memory_limit, tmp_path):
    experiment = grid_experiment(model="hungry", image_size=16, batch_size=(24, 12), epochs=2)
    rows = run_experiment(experiment, tmp_path, lanes=1, exit_code=1).trials.set_index("batch_size")
    assert rows["status"].to_dict() == {12: "completed", 24: "failed"}
    assert re.search(
        r"lost 3 times.*If memory ran out.*[lL]ower `batch_size` or `image_size`", rows["error"][24]
    )
    assert "oom_kill 3" in (toys.CAGE / toys.KILLS).read_text()


@pytest.mark.nightly
def test_out_of_memory_error_has_the_way_out(shared_ray, tmp_path):
    experiment = grid_experiment(model="greedy", image_size=16, batch_size=(12, 6), epochs=1)
    rows = run_experiment(experiment, tmp_path, lanes=1, exit_code=1).trials.set_index("batch_size")
    assert rows["status"].to_dict() == {6: "completed", 12: "failed"}
    assert re.search(
        r"OutOfMemoryError: CUDA out of memory.*Lower `batch_size` or `image_size`",
        rows["error"][12],
    )


def test_error_of_all_workers_is_recorded_at_once(shared_ray, tmp_path):
    experiment = grid_experiment(model="greedy", image_size=16, batch_size=24, epochs=2, workers=2)
    row = run_experiment(experiment, tmp_path, exit_code=1).trials.iloc[0]
    assert row["error"].startswith("OutOfMemoryError: CUDA out of memory"), (
        "it was tried again until its lane gave up"
    )
