"""`bioimg doctor`: what each node reports of itself, and what the reports mean."""

import contextlib
import io
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
import ray
import torch
from ray.cluster_utils import Cluster
from rich.console import Console

from bioimg import provenance
from bioimg.cli.doctor import Doctor, _shared_cache_folder, print_check_results
from bioimg.cluster import devices, ray_session
from bioimg.diagnostics import diagnosis, node_probe, run_checks
from bioimg.diagnostics.diagnosis import GIB, CheckResult, diagnose_basics, diagnose_nodes
from bioimg.errors import UserError
from bioimg.experiment import Experiment
from support import PROJECT, toys
from support.processes import free_port

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("no_ray")]

GRID = PROJECT / "experiments" / "grid.py"
DOCTOR = ("-c", "import sys; from bioimg.cli.main import main; sys.exit(main())", "doctor")

WELL = {
    "versions": {"python": "3.11.7", "ray": "2.60.0", "torch": "2.9.0", "bioimg": "0.1.0"},
    "import_error": None,
    "device_error": None,
    "storage_error": None,
    "weights_here": [],
    "weights_to_fetch": [],
    "missing_weights": [],
    "images_error": None,
    "token_mode": 0o600,
    "authenticated": True,
    "free_disk": 100 * GIB,
    "free_shm": 4 * GIB,
    "object_store": 2 * GIB,
    "gpus": 1,
    "gpus_wanted": True,
    "clock_skew": 0.1,
}


def problems_of_one_node(**changes: object) -> list[CheckResult]:
    """Return the problems where one of three nodes reports something else than the others."""
    results = diagnose_nodes({"a": WELL, "b": {**WELL, **changes}, "c": WELL}, GIB)
    problems = [result for result in results if result.problem]
    assert all(result.node == "b" for result in problems)
    return problems


def test_healthy_cluster_passes_every_check():
    results = diagnose_nodes({"a": WELL, "b": WELL}, GIB)
    assert not any(result.problem for result in results)
    assert len(results) == 2 * len({result.check for result in results}) == 22


@pytest.mark.parametrize(
    ("check", "changes", "text"),
    [
        (
            "versions",
            {"versions": {**WELL["versions"], "torch": "2.8.0"}},
            r"torch 2\.8\.0 \(others: 2\.9\.0\)\. Install",
        ),
        (
            "versions",
            {"versions": {**WELL["versions"], "bioimg": None}},
            r"bioimg missing \(others: 0\.1\.0\)",
        ),
        (
            "imports bioimg",
            {"import_error": "ModuleNotFoundError: no bioimg"},
            "no bioimg. Install bioimg on this node",
        ),
        ("devices", {"device_error": "RuntimeError: CUDA error"}, "CUDA error. Check nvidia-smi"),
        ("devices", {"gpus": 0}, "has no GPU for Ray"),
        (
            "results storage",
            {"storage_error": "FileNotFoundError: not the same"},
            "Set --out to a folder that all nodes share",
        ),
        ("weights", {"missing_weights": ["w.pth: no such file"]}, "w.pth: no such file"),
        (
            "images",
            {"images_error": "FileNotFoundError: not the same folder"},
            "set BIOIMG_CACHE to a folder that all share",
        ),
        ("disk", {"free_disk": GIB}, r"/tmp has 1\.0 GiB, but needs 5\.0"),
        ("/dev/shm", {"free_shm": GIB // 16}, r"--shm-size"),
        ("object store", {"object_store": GIB // 2}, r"object store has 0\.5 GiB, but needs 1\.0"),
        ("authentication", {"authenticated": False}, "ray get-auth-token --generate"),
        ("authentication", {"token_mode": 0o644}, r"mode 644\)\. chmod 600"),
        ("clock", {"clock_skew": -61.0}, "is -61 s off"),
    ],
)
def test_problem_of_one_node_names_the_way_out(check, changes, text):
    (result,) = problems_of_one_node(**changes)
    assert result.check == check
    assert re.search(text, result.problem or "")


def test_node_without_dev_shm_passes():
    assert not problems_of_one_node(free_shm=None)


def test_silent_node_is_named_and_others_are_checked():
    results = diagnose_nodes({"a": WELL, "b": "no answer in 60 s."}, 0)
    assert not diagnose_basics({"b": "no answer in 10 s."})
    assert results[0] == CheckResult("answers", "b", "no answer in 60 s.")
    assert len(results) == 12


def test_bytes_per_node_follow_from_the_images(tmp_path):
    for name in ("a/1.png", "a/2.png", "b/1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert Doctor(data=str(tmp_path), image_size=100)._decoded_bytes() == 3 * 100 * 100 * 3


def test_images_too_large_to_send_need_the_shared_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BIOIMG_CACHE", str(tmp_path / "decoded"))
    assert _shared_cache_folder(GIB // 1024) is None
    assert _shared_cache_folder(2**60) == str(tmp_path / "decoded")
    assert (tmp_path / "decoded").is_dir()


def test_named_weights_are_found_for_every_model():
    locations = Doctor(
        model=("resnet18", "mobilenet_v2"), weights=("IMAGENET1K_V1", "none", "mine.pth")
    )._weights_locations()
    assert [location.rsplit("/")[-1].split("-")[0] for location in locations] == [
        "mine.pth",
        "resnet18",
        "mobilenet_v2",
    ]
    with pytest.raises(UserError, match="`weights` is 'IMAGENET'"):
        Doctor(weights=("IMAGENET",))._weights_locations()


def test_model_alone_means_its_own_weights():
    (location,) = Doctor(model=("kaiko",))._weights_locations()
    assert location.startswith("hub:1aurent/vit_small_patch16_224.kaiko")
    assert Doctor()._weights_locations() == ()


def test_node_says_which_weights_it_has_and_which_it_would_download():
    report = {**WELL, "weights_here": ["w.pth"], "weights_to_fetch": ["hub:lab/model"]}
    results = diagnose_nodes({"a": report}, 0)
    (result,) = (result for result in results if result.check == "weights")
    assert result.problem is None
    assert re.fullmatch("here: w.pth; .* `bioimg fetch MODEL`: hub:lab/model", result.remark)
    console = Console(file=io.StringIO())
    print_check_results([result], console)
    assert "here: w.pth" in console.file.getvalue()


def test_unreachable_weights_url_fails_unless_its_file_is_cached(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    url = f"http://127.0.0.1:{free_port()}/w.pth"
    (reason,) = node_probe._probe_weights((url,))["missing_weights"]
    assert re.search(
        rf"{url}: .*refused.*, and there is no {tmp_path}/hub/checkpoints/w.pth", reason
    )
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints" / "w.pth").touch()
    expected = {"weights_here": [url], "weights_to_fetch": [], "missing_weights": []}
    assert node_probe._probe_weights((url,)) == expected


def test_exit_code_is_one_if_any_check_fails():
    console = Console(file=io.StringIO())
    assert print_check_results([CheckResult("disk", "a")], console) == 0
    assert (
        print_check_results(
            [CheckResult("disk", "a"), CheckResult("disk", "b", "is full")], console
        )
        == 1
    )


def test_address_without_listener_is_refused():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{server.getsockname()[1]}"
    with pytest.raises(
        UserError,
        match=rf"`--address` is '{address}', but must be HOST:PORT of a running cluster's head",
    ):
        run_checks.join_or_start_ray(address)


def test_address_without_port_is_refused():
    with pytest.raises(UserError, match="must be HOST:PORT"):
        run_checks.join_or_start_ray("somewhere")


@pytest.mark.nightly
def test_open_port_that_is_not_ray_times_out(monkeypatch):
    monkeypatch.setattr(ray_session, "JOIN_TIMEOUT_S", 4.0)
    monkeypatch.setenv("RAY_ADDRESS", "")
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(
            UserError,
            match=rf"`--address` is '{address}'.*no Ray answers there within 4 s"
            ".*copy ~/.ray/auth_token",
        ):
            run_checks.join_or_start_ray(address)


@contextlib.contextmanager
def head(mode: str, token: Path) -> Iterator[str]:
    """Yield the address of a head on loopback that uses this mode of authentication."""
    address = f"127.0.0.1:{free_port()}"
    ports = [f"--port={address.split(':')[1]}", f"--ray-client-server-port={free_port()}"]
    small = [
        "--num-cpus=1",
        "--object-store-memory=100000000",
        "--include-dashboard=false",
        "--disable-usage-stats",
    ]
    start = [
        "-m",
        "ray.scripts.scripts",
        "start",
        "--head",
        "--block",
        "--node-ip-address=127.0.0.1",
        *ports,
        *small,
    ]
    env = {**os.environ, "RAY_AUTH_MODE": mode, "RAY_AUTH_TOKEN_PATH": str(token)}
    with subprocess.Popen(
        [sys.executable, *start], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            deadline = time.monotonic() + 60
            while not can_connect(address) and time.monotonic() < deadline:
                time.sleep(0.2)
            yield address
        finally:
            process.terminate()


def can_connect(address: str) -> bool:
    host, port = address.split(":")
    with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=1):
        return True
    return False


@pytest.fixture(scope="module")
def token(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("token") / "auth_token"
    path.write_text("a" * 64)
    path.chmod(0o600)
    return path


@pytest.fixture(scope="module")
def head_with_token(token) -> Iterator[str]:
    with head("token", token) as address:
        yield address


def run_doctor(address: str, token: Path, out: Path) -> str:
    """Return what `bioimg doctor` prints to a user with this token."""
    env = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    command = [sys.executable, *DOCTOR, "--address", address, "--out", str(out)]
    process = subprocess.run(command, env=env, capture_output=True, text=True, timeout=240)
    return process.stdout + process.stderr


@pytest.mark.nightly
def test_head_that_asks_for_a_token_passes(head_with_token, token, tmp_path):
    output = run_doctor(head_with_token, token, tmp_path)
    assert re.search(r"^ok +authentication", output, re.MULTILINE), output


@pytest.mark.nightly
@pytest.mark.parametrize("own_token", ["b" * 64, None], ids=["wrong", "missing"])
def test_foreign_token_error_has_no_ray_log(
    head_with_token, own_token, tmp_path, monkeypatch, capfd
):
    if own_token:
        (tmp_path / "auth_token").write_text(own_token)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "auth_token"))
    monkeypatch.setenv("RAY_ADDRESS", "")
    with pytest.raises(
        UserError,
        match=rf"`--address` is '{head_with_token}'.*copy ~/.ray/auth_token from its head",
    ):
        run_checks.join_or_start_ray(head_with_token)
    assert capfd.readouterr().err == ""


@pytest.mark.nightly
def test_run_with_a_wrong_token_is_refused(head_with_token, tmp_path):
    (tmp_path / "auth_token").write_text("b" * 64)
    variables = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(tmp_path / "auth_token"),
        "RAY_ADDRESS": head_with_token,
    }
    command = [sys.executable, GRID, "--image-size", "32", "--out", tmp_path / "out"]
    process = subprocess.run(
        command, env={**os.environ, **variables}, capture_output=True, text=True, timeout=60
    )
    assert process.returncode == 2
    assert re.fullmatch(
        rf"error: the value of RAY_ADDRESS is '{head_with_token}'.*copy ~/.ray/auth_token.*\n",
        process.stderr,
    )


@pytest.mark.nightly
def test_own_cluster_with_another_token_needs_a_way_out(head_with_token, tmp_path, monkeypatch):
    (tmp_path / "auth_token").write_text("b" * 64)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "auth_token"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(
        UserError,
        match=r"part of a cluster that doesn't let you in: "
        r".*use the machine alone: RAY_ADDRESS=local",
    ):
        ray_session.join_cluster()
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert not ray_session.join_cluster()


@pytest.mark.nightly
def test_cluster_with_another_ray_version_is_refused(head_with_token, token, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", head_with_token)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    monkeypatch.setattr(
        ray_session,
        "PROBE_SCRIPT",
        ray_session.PROBE_SCRIPT.replace("try:", "ray.__version__ = '2.50.0'\ntry:"),
    )
    with pytest.raises(
        UserError, match=r"lets you in: Version mismatch.* with: Ray: 2\.6.* with: Ray: 2\.50\.0"
    ):
        ray_session.join_cluster()


def test_machine_without_a_cluster_joins_none(tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    assert not ray_session.join_cluster()


@pytest.mark.nightly
def test_named_cluster_that_is_not_ray_times_out(monkeypatch):
    monkeypatch.setattr(ray_session, "JOIN_TIMEOUT_S", 3.0)
    with socket.create_server(("", 0)) as server:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{server.getsockname()[1]}")
        with pytest.raises(
            UserError, match=r"RAY_ADDRESS is .*lets you in: no Ray answers there within 3 s"
        ):
            ray_session.join_cluster()


def test_autoscaler_maximum_counts_the_largest_machines_first():
    node_types = {
        "head": {"resources": {"CPU": 4, "GPU": 8}, "max_workers": 0},
        "large": {"resources": {"CPU": 16, "GPU": 4}, "max_workers": 1},
        "small": {"resources": {"CPU": 4, "GPU": 1}, "max_workers": 5},
    }
    config = {"available_node_types": node_types, "head_node_type": "head", "max_workers": 3}
    assert (
        devices.autoscaler_maximum(config, "GPU"),
        devices.autoscaler_maximum(config, "CPU"),
        devices.autoscaler_maximum(config, "TPU"),
    ) == (6, 24, 0)
    assert devices.autoscaler_maximum({}, "GPU") == 0


def test_gpus_that_torch_cannot_use_are_refused(monkeypatch):
    """Imitate a driver that is too old for torch: NVML counts the GPU."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(
        UserError,
        match=r"GPUs is 1, but torch .* can't use any.*too old.*the CPU: CUDA_VISIBLE_DEVICES=''",
    ):
        devices.count_local_devices()
    manifest = provenance.build_manifest(
        Experiment(name="grid", base=toys.trial(), axes={}), toys.images(), {}, {}
    )
    assert manifest["hardware"]["gpus"] == []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert devices.count_local_devices() == ("CPU", os.cpu_count())


def test_torch_that_sees_too_few_gpus_fails(monkeypatch):
    """Imitate a torch that is installed for CPUs only."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(ray, "get_gpu_ids", list)
    assert node_probe.probe_devices() is None
    monkeypatch.setattr(ray, "get_gpu_ids", lambda: [0])
    assert re.fullmatch(
        "RuntimeError: torch .* sees 0 of the 1 GPUs that Ray gives", node_probe.probe_devices()
    )


def test_joining_takes_less_than_a_minute():
    assert 10 + ray_session.JOIN_TIMEOUT_S < 60


@pytest.mark.nightly
def test_head_without_authentication_fails(token, tmp_path):
    with head("disabled", token) as address:
        output = run_doctor(address, token, tmp_path)
    assert re.search(
        r"^wrong +authentication .*anybody who reaches this node", output, re.MULTILINE
    ), output


@pytest.fixture(scope="module")
def cluster(no_ray):
    """Start two nodes on this machine."""
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 10**8}
    )
    cluster.add_node(num_cpus=1, object_store_memory=10**8)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    cluster.wait_for_nodes()
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def select(results: list[CheckResult], check: str) -> list[CheckResult]:
    return [result for result in results if result.check == check]


@pytest.mark.nightly
def test_every_node_is_checked_and_all_reduce_works(cluster, tmp_path):
    results = run_checks.run_all_checks(tmp_path.as_uri(), workers=2)
    assert len(select(results, "versions")) == 2
    for check in (
        "versions",
        "imports bioimg",
        "devices",
        "results storage",
        "clock",
        "all-reduce",
    ):
        assert select(results, check), check
        assert not any(result.problem for result in select(results, check)), select(results, check)
    assert not list(tmp_path.iterdir())


@pytest.mark.nightly
def test_missing_weights_space_and_gpus_fail_except_on_the_head(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(node_probe, "probe_devices", lambda: None)
    results = run_checks.run_all_checks(
        tmp_path.as_uri(), weights=["/nowhere/w.pth"], gpus_wanted=True, image_bytes=GIB
    )
    assert [bool(result.problem) for result in select(results, "devices")].count(True) == 1
    for check in ("weights", "object store"):
        assert all(result.problem for result in select(results, check)), check


@pytest.mark.nightly
def test_cache_folder_must_be_shared(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(node_probe, "probe_devices", lambda: None)
    out, cache_folder = tmp_path / "out", tmp_path / "decoded"
    results = select(
        run_checks.run_all_checks(out.as_uri(), cache_folder=cache_folder.as_uri()), "images"
    )
    assert [result.problem for result in results] == [None, None]
    write_marker = node_probe.write_marker
    monkeypatch.setattr(
        node_probe,
        "write_marker",
        lambda folder, name: write_marker(folder, name if folder == out.as_uri() else "elsewhere"),
    )
    results = select(
        run_checks.run_all_checks(out.as_uri(), cache_folder=cache_folder.as_uri()), "images"
    )
    assert all("not the same folder" in (result.problem or "") for result in results)
    assert len(results) == 2


@pytest.fixture
def node_packages(cluster, tmp_path) -> Iterator[Path]:
    """Add a third node, and yield a folder that it searches before the installed packages."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    paths = os.pathsep.join([str(folder), os.environ["PYTHONPATH"]])
    node = cluster.add_node(num_cpus=1, object_store_memory=10**8, env_vars={"PYTHONPATH": paths})
    yield folder
    cluster.remove_node(node)


def on_cluster(cluster: Cluster, folder: Path, *command: str) -> str:
    """Return what a program prints that joins the cluster and fails.

    It runs in a folder of its own, since Ray shows its folder to every node.
    """
    working_dir = folder / "desk"
    working_dir.mkdir(exist_ok=True)
    env = {**os.environ, "RAY_ADDRESS": cluster.address}
    process = subprocess.run(
        [sys.executable, *command],
        env=env,
        cwd=working_dir,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert process.returncode, process.stdout
    return process.stdout + process.stderr


@pytest.mark.nightly
def test_node_with_another_torch_is_found_by_doctor_and_run(cluster, node_packages, tmp_path):
    (node_packages / "torch-2.0.0.dist-info").mkdir()
    (node_packages / "torch-2.0.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: torch\nVersion: 2.0.0\n"
    )
    others = re.escape(version("torch"))
    difference = rf"torch 2\.0\.0 \(others: {others}\)\. Install the same versions on every node"
    output = on_cluster(cluster, tmp_path, *DOCTOR, "--out", str(tmp_path / "out"))
    assert re.search(rf"^wrong +versions .*{difference}", output, re.MULTILINE), output
    assert len(re.findall("^ok +versions", output, re.MULTILINE)) == 2, output
    output = on_cluster(
        cluster, tmp_path, str(GRID), "--image-size", "32", "--out", str(tmp_path / "out")
    )
    assert re.search(
        rf"error: all nodes must have the same versions.*versions on .*{difference}", output
    ), output


@pytest.mark.nightly
def test_node_without_bioimg_is_found_by_doctor_and_run(cluster, node_packages, tmp_path):
    (node_packages / "bioimg").mkdir()
    (node_packages / "bioimg" / "__init__.py").write_text("import nothing_of_this_name\n")
    reason = (
        "ModuleNotFoundError: No module named 'nothing_of_this_name'. "
        "Install bioimg on this node as on the others"
    )
    output = on_cluster(cluster, tmp_path, *DOCTOR, "--out", str(tmp_path / "out"))
    assert re.search(rf"^wrong +imports bioimg .*{reason}", output, re.MULTILINE), output
    assert len(re.findall("^ok +imports bioimg", output, re.MULTILINE)) == 2, output
    output = on_cluster(
        cluster, tmp_path, str(GRID), "--image-size", "32", "--out", str(tmp_path / "out")
    )
    assert re.search(
        rf"error: all nodes must have the same versions.*imports bioimg on .*{reason}", output
    ), output


@pytest.mark.nightly
def test_preflight_passes_on_equal_nodes(cluster, tmp_path):
    run_checks.run_preflight_checks(tmp_path.as_uri())
    assert not list(tmp_path.iterdir())


@pytest.mark.nightly
def test_preflight_refuses_results_that_are_not_shared(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(node_probe, "write_marker", lambda out, name: None)
    monkeypatch.setattr(node_probe, "delete_marker", lambda out, name: None)
    with pytest.raises(
        UserError,
        match=r"must have the same versions and share `out`: "
        r"results storage on .*not the same folder.*--out",
    ):
        run_checks.run_preflight_checks(tmp_path.as_uri())


@pytest.mark.nightly
def test_busy_devices_fail_and_the_rest_is_checked(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(run_checks, "NODE_TIMEOUT_S", 10.0)
    monkeypatch.setattr(node_probe, "probe_node", lambda *args: {**WELL, "clock": time.time()})
    monkeypatch.setattr(node_probe, "probe_devices", lambda: time.sleep(60))
    results = run_checks.run_all_checks(tmp_path.as_uri())
    assert all(
        "no answer in 10 s. Is it busy" in (result.problem or "")
        for result in select(results, "devices")
    )
    assert not any(result.problem for result in select(results, "results storage"))


def test_bucket_that_cannot_be_written_fails(monkeypatch):
    monkeypatch.setattr(run_checks, "_alive_nodes", lambda: [])
    (result,) = run_checks.run_all_checks("nonsense://bucket/folder")
    assert result.check == "results storage"
    assert "Set --out to a writable folder" in (result.problem or "")


@pytest.mark.nightly
def test_results_folder_that_is_not_shared_fails(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(node_probe, "write_marker", lambda out, name: None)
    monkeypatch.setattr(node_probe, "delete_marker", lambda out, name: None)
    results = select(run_checks.run_all_checks(tmp_path.as_uri()), "results storage")
    assert all(
        "not the same folder as where bioimg was started" in (result.problem or "")
        for result in results
    )


@pytest.mark.nightly
def test_node_that_never_answers_is_given_up(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(run_checks, "NODE_TIMEOUT_S", 1.0)
    monkeypatch.setattr(node_probe, "probe_node", lambda *args: time.sleep(60))
    results = run_checks.run_all_checks(tmp_path.as_uri())
    assert [result.check for result in results] == ["answers", "answers"]
    assert "no answer in 1 s" in (results[0].problem or "")


@pytest.mark.nightly
def test_node_that_dies_during_checks_fails_alone(cluster, tmp_path, monkeypatch):
    dying_node = cluster.add_node(num_cpus=1, object_store_memory=10**8).node_id
    cluster.wait_for_nodes()

    def probe_or_die(*args):
        if ray.get_runtime_context().get_node_id() == dying_node:
            os.kill(os.getppid(), signal.SIGKILL)  # the node's own process
            time.sleep(60)
        return {**WELL, "clock": time.time()}

    monkeypatch.setattr(run_checks, "NODE_TIMEOUT_S", 10.0)
    monkeypatch.setattr(node_probe, "probe_node", probe_or_die)
    monkeypatch.setattr(node_probe, "probe_devices", lambda: None)
    results = run_checks.run_all_checks(tmp_path.as_uri())
    (result,) = select(results, "answers")
    assert "restart ray there" in (result.problem or "").lower()
    assert len(select(results, "versions")) == 2


def test_small_clock_skew_passes():
    assert not problems_of_one_node(clock_skew=diagnosis.MAX_CLOCK_SKEW_S)
