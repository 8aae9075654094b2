"""`bioimg doctor`: what each node reports of itself, and what that means."""

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
from bioimg.cluster import ray_session
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
    "broken": None,
    "product": None,
    "storage": None,
    "absent": [],
    "images": None,
    "token_mode": 0o600,
    "authenticated": True,
    "disk": 100 * GIB,
    "shm": 4 * GIB,
    "store": 2 * GIB,
    "gpus": 1,
    "gpus_wanted": True,
    "skew": 0.1,
}


def wrong(needs: int = GIB, **changed: object) -> list[CheckResult]:
    """What is wrong on one of three nodes."""
    lines = diagnose_nodes({"a": WELL, "b": {**WELL, **changed}, "c": WELL}, needs)
    assert all(line.node == "b" for line in lines if line.problem)
    return [line for line in lines if line.problem]


def test_a_cluster_that_is_well_gets_an_ok_for_every_check_and_node():
    lines = diagnose_nodes({"a": WELL, "b": WELL}, GIB)
    assert not any(line.problem for line in lines)
    assert len(lines) == 2 * len({line.check for line in lines}) == 22


@pytest.mark.parametrize(
    ("check", "changed", "text"),
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
            {"broken": "ModuleNotFoundError: no bioimg"},
            "no bioimg. Install bioimg on this node",
        ),
        ("devices", {"product": "RuntimeError: CUDA error"}, "CUDA error. Check nvidia-smi"),
        ("devices", {"gpus": 0}, "has no GPU for Ray"),
        (
            "results storage",
            {"storage": "FileNotFoundError: not the same"},
            "Set --out to a folder that all nodes share",
        ),
        ("weights", {"absent": ["w.pth: no such file"]}, "w.pth: no such file"),
        (
            "images",
            {"images": "FileNotFoundError: not the same folder"},
            "set BIOIMG_CACHE to a folder that all share",
        ),
        ("disk", {"disk": GIB}, r"/tmp has 1\.0 GiB, but needs 5\.0"),
        ("/dev/shm", {"shm": GIB // 16}, r"--shm-size"),
        ("object store", {"store": GIB // 2}, r"object store has 0\.5 GiB, but needs 1\.0"),
        ("authentication", {"authenticated": False}, "ray get-auth-token --generate"),
        ("authentication", {"token_mode": 0o644}, r"mode 644\)\. chmod 600"),
        ("clock", {"skew": -61.0}, "is -61 s off"),
    ],
)
def test_what_is_wrong_on_one_node_is_told_with_the_way_out(check, changed, text):
    (line,) = wrong(**changed)
    assert line.check == check
    assert re.search(text, line.problem or "")


def test_a_node_without_dev_shm_isnt_wrong():
    assert not wrong(shm=None)


def test_a_node_that_says_nothing_is_named_and_the_others_are_judged():
    lines = diagnose_nodes({"a": WELL, "b": "no answer in 60 s."}, 0)
    assert not diagnose_basics({"b": "no answer in 10 s."})
    assert lines[0] == CheckResult("answers", "b", "no answer in 60 s.")
    assert len(lines) == 12


def test_what_each_node_must_hold_follows_from_the_images(tmp_path):
    for name in ("a/1.png", "a/2.png", "b/1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert Doctor(data=str(tmp_path), image_size=100)._decoded_bytes() == 3 * 100 * 100 * 3


def test_images_that_are_too_large_to_be_sent_around_must_be_seen_in_the_folder_of_decoded_ones(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("BIOIMG_CACHE", str(tmp_path / "decoded"))
    assert _shared_cache_folder(GIB // 1024) is None
    assert _shared_cache_folder(2**60) == str(tmp_path / "decoded")
    assert (tmp_path / "decoded").is_dir()


def test_weights_by_name_are_those_of_every_model_and_an_unknown_name_is_told():
    places = Doctor(
        model=("resnet18", "mobilenet_v2"), weights=("IMAGENET1K_V1", "none", "mine.pth")
    )._weights_locations()
    assert [place.rsplit("/")[-1].split("-")[0] for place in places] == [
        "mine.pth",
        "resnet18",
        "mobilenet_v2",
    ]
    with pytest.raises(UserError, match="`weights` is 'IMAGENET'"):
        Doctor(weights=("IMAGENET",))._weights_locations()


def test_a_url_of_weights_that_a_node_cant_reach_is_told_unless_it_has_the_file(
    monkeypatch, tmp_path
):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    url = f"http://127.0.0.1:{free_port()}/w.pth"
    assert re.search(
        rf"{url}: .*refused.*, and there is no {tmp_path}/hub/checkpoints/w.pth",
        node_probe._why_weights_missing(url) or "",
    )
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints" / "w.pth").touch()
    assert node_probe._why_weights_missing(url) is None


def test_the_exit_code_says_whether_anything_is_wrong():
    console = Console(file=io.StringIO())
    assert print_check_results([CheckResult("disk", "a")], console) == 0
    assert (
        print_check_results(
            [CheckResult("disk", "a"), CheckResult("disk", "b", "is full")], console
        )
        == 1
    )


def test_an_address_where_nothing_listens_is_told_at_once():
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{door.getsockname()[1]}"
    with pytest.raises(
        UserError,
        match=rf"`--address` is '{address}', but must be HOST:PORT of a running cluster's head",
    ):
        run_checks.join_or_start_ray(address)


def test_an_address_without_a_port_is_told_at_once():
    with pytest.raises(UserError, match="must be HOST:PORT"):
        run_checks.join_or_start_ray("somewhere")


@pytest.mark.nightly
def test_an_open_port_that_isnt_ray_is_told_in_time(monkeypatch):
    monkeypatch.setattr(ray_session, "JOIN_TIMEOUT_S", 4.0)
    monkeypatch.setenv("RAY_ADDRESS", "")
    with socket.create_server(("127.0.0.1", 0)) as door:
        address = f"127.0.0.1:{door.getsockname()[1]}"
        with pytest.raises(
            UserError,
            match=rf"`--address` is '{address}'.*no Ray answers there within 4 s.*copy ~/.ray/auth_token",
        ):
            run_checks.join_or_start_ray(address)


@contextlib.contextmanager
def head(mode: str, token: Path) -> Iterator[str]:
    """A head on loopback in a mode of authentication; its address."""
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
            until = time.monotonic() + 60
            while not reached(address) and time.monotonic() < until:
                time.sleep(0.2)
            yield address
        finally:
            process.terminate()


def reached(address: str) -> bool:
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
def guarded(token) -> Iterator[str]:
    with head("token", token) as address:
        yield address


def examined(address: str, token: Path, out: Path) -> str:
    """What `bioimg doctor` prints to somebody who holds a token."""
    env = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    command = [sys.executable, *DOCTOR, "--address", address, "--out", str(out)]
    ended = subprocess.run(command, env=env, capture_output=True, text=True, timeout=240)
    return ended.stdout + ended.stderr


@pytest.mark.nightly
def test_a_head_that_asks_for_a_token_is_ok(guarded, token, tmp_path):
    assert re.search(
        r"^ok +authentication", told := examined(guarded, token, tmp_path), re.MULTILINE
    ), told


@pytest.mark.nightly
@pytest.mark.parametrize("held", ["b" * 64, None], ids=["wrong", "missing"])
def test_a_token_that_isnt_the_clusters_is_told_in_time_and_without_rays_log(
    guarded, held, tmp_path, monkeypatch, capfd
):
    if held:
        (tmp_path / "auth_token").write_text(held)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "auth_token"))
    monkeypatch.setenv("RAY_ADDRESS", "")
    with pytest.raises(
        UserError, match=rf"`--address` is '{guarded}'.*copy ~/.ray/auth_token from its head"
    ) as told:
        run_checks.join_or_start_ray(guarded)
    print(f"{told.value}")
    captured = capfd.readouterr()
    assert captured.err == ""


@pytest.mark.nightly
def test_a_run_with_a_wrong_token_is_refused(guarded, tmp_path):
    (tmp_path / "auth_token").write_text("b" * 64)
    holds = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(tmp_path / "auth_token"),
        "RAY_ADDRESS": guarded,
    }
    command = [sys.executable, GRID, "--image-size", "32", "--out", tmp_path / "out"]
    told = subprocess.run(
        command, env={**os.environ, **holds}, capture_output=True, text=True, timeout=60
    )
    assert told.returncode == 2
    assert re.fullmatch(
        rf"error: the value of RAY_ADDRESS is '{guarded}'.*copy ~/.ray/auth_token.*\n", told.stderr
    )


@pytest.mark.nightly
def test_a_cluster_of_this_machine_that_wants_another_token_isnt_passed_over_unless_one_says_so(
    guarded, tmp_path, monkeypatch
):
    (tmp_path / "auth_token").write_text("b" * 64)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "auth_token"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(
        UserError,
        match=r"part of a cluster that doesn't let you in: .*use the machine alone: RAY_ADDRESS=local",
    ):
        ray_session.join_cluster()
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert not ray_session.join_cluster()


@pytest.mark.nightly
def test_a_run_on_a_machine_whose_cluster_has_another_ray_is_refused(guarded, token, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", guarded)
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


def test_a_machine_that_never_saw_a_cluster_is_used_alone(tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    assert not ray_session.join_cluster()


@pytest.mark.nightly
def test_a_run_whose_address_is_an_open_port_that_isnt_ray_is_refused_in_time(monkeypatch):
    monkeypatch.setattr(ray_session, "JOIN_TIMEOUT_S", 3.0)
    with socket.create_server(("", 0)) as door:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{door.getsockname()[1]}")
        with pytest.raises(
            UserError, match=r"RAY_ADDRESS is .*lets you in: no Ray answers there within 3 s"
        ):
            ray_session.join_cluster()


def test_how_far_a_cluster_can_grow_is_what_its_largest_machines_give_up_to_the_limit_of_all():
    kinds = {
        "head": {"resources": {"CPU": 4, "GPU": 8}, "max_workers": 0},
        "large": {"resources": {"CPU": 16, "GPU": 4}, "max_workers": 1},
        "small": {"resources": {"CPU": 4, "GPU": 1}, "max_workers": 5},
    }
    plan = {"available_node_types": kinds, "head_node_type": "head", "max_workers": 3}
    assert (
        ray_session.autoscaler_maximum(plan, "GPU"),
        ray_session.autoscaler_maximum(plan, "CPU"),
        ray_session.autoscaler_maximum(plan, "TPU"),
    ) == (6, 24, 0)
    assert ray_session.autoscaler_maximum({}, "GPU") == 0


def test_gpus_that_torch_can_not_use_are_told_with_the_way_out_and_none_is_on_record(monkeypatch):
    """As with a driver too old for torch: NVML counts the GPU."""
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(
        UserError,
        match=r"GPUs is 1, but torch .* can't use any.*too old.*the CPU: CUDA_VISIBLE_DEVICES=''",
    ):
        ray_session.count_devices()
    asked = provenance.build_manifest(
        Experiment(name="grid", base=toys.trial(), axes={}), toys.images(), {}, {}
    )
    assert asked["hardware"]["gpus"] == []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert ray_session.count_devices() == ("CPU", os.cpu_count())


def test_a_node_whose_torch_sees_fewer_gpus_than_ray_gave_it_is_told(monkeypatch):
    """As where torch is installed for CPUs alone."""
    for given, told in (
        ([], None),
        ([0], "RuntimeError: torch .* sees 0 of the 1 GPUs that Ray gives"),
    ):
        monkeypatch.setattr(ray, "get_gpu_ids", lambda given=given: given)
        assert (
            re.fullmatch(told, node_probe.probe_devices())
            if told
            else node_probe.probe_devices() is None
        )


def test_ten_seconds_to_be_heard_and_those_to_be_let_in_are_less_than_a_minute():
    assert 10 + ray_session.JOIN_TIMEOUT_S < 60


@pytest.mark.nightly
def test_a_head_that_lets_anybody_in_is_wrong_though_we_hold_a_token(token, tmp_path):
    with head("disabled", token) as address:
        told = examined(address, token, tmp_path)
    assert re.search(
        r"^wrong +authentication .*anybody who reaches this node", told, re.MULTILINE
    ), told


@pytest.fixture(scope="module")
def cluster(no_ray):
    """Two nodes on this machine."""
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 10**8}
    )
    cluster.add_node(num_cpus=1, object_store_memory=10**8)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    cluster.wait_for_nodes()
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def of(lines: list[CheckResult], check: str) -> list[CheckResult]:
    return [line for line in lines if line.check == check]


@pytest.mark.nightly
def test_every_node_of_a_real_cluster_is_asked_and_they_sum_together(cluster, tmp_path):
    lines = run_checks.run_all_checks(tmp_path.as_uri(), workers=2)
    assert len(of(lines, "versions")) == 2
    for check in (
        "versions",
        "imports bioimg",
        "devices",
        "results storage",
        "clock",
        "all-reduce",
    ):
        assert of(lines, check), check
        assert not any(line.problem for line in of(lines, check)), of(lines, check)
    assert not list(tmp_path.iterdir())


@pytest.mark.nightly
def test_weights_room_and_gpus_that_real_nodes_lack_are_told_but_a_head_needs_no_gpu(
    cluster, tmp_path, monkeypatch
):
    monkeypatch.setattr(node_probe, "probe_devices", lambda: None)
    lines = run_checks.run_all_checks(
        tmp_path.as_uri(), weights=["/nowhere/w.pth"], gpus_wanted=True, needs=GIB
    )
    assert [bool(line.problem) for line in of(lines, "devices")].count(True) == 1
    for check in ("weights", "object store"):
        assert all(line.problem for line in of(lines, check)), check


@pytest.mark.nightly
def test_a_folder_of_decoded_images_that_nodes_see_is_ok_and_one_that_they_dont_is_told(
    cluster, tmp_path, monkeypatch
):
    monkeypatch.setattr(node_probe, "probe_devices", lambda: None)
    out, kept = tmp_path / "out", tmp_path / "decoded"
    lines = of(run_checks.run_all_checks(out.as_uri(), kept=kept.as_uri()), "images")
    assert [line.problem for line in lines] == [None, None]
    write = node_probe.write_marker
    monkeypatch.setattr(
        node_probe,
        "write_marker",
        lambda folder, mark: write(folder, mark if folder == out.as_uri() else "elsewhere"),
    )
    lines = of(run_checks.run_all_checks(out.as_uri(), kept=kept.as_uri()), "images")
    assert all("not the same folder" in (line.problem or "") for line in lines)
    assert len(lines) == 2


@pytest.fixture
def odd(cluster, tmp_path) -> Iterator[Path]:
    """A folder that a third node searches before the installed packages."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    paths = os.pathsep.join([str(folder), os.environ["PYTHONPATH"]])
    node = cluster.add_node(num_cpus=1, object_store_memory=10**8, env_vars={"PYTHONPATH": paths})
    yield folder
    cluster.remove_node(node)


def on_cluster(cluster: Cluster, folder: Path, *command: str) -> str:
    """What a program prints that joins the cluster from a folder of its own: Ray shows the folder to every node."""
    desk = folder / "desk"
    desk.mkdir(exist_ok=True)
    env = {**os.environ, "RAY_ADDRESS": cluster.address}
    ended = subprocess.run(
        [sys.executable, *command], env=env, cwd=desk, capture_output=True, text=True, timeout=240
    )
    assert ended.returncode, ended.stdout
    return ended.stdout + ended.stderr


@pytest.mark.nightly
def test_a_node_with_another_torch_is_told_by_the_doctor_and_refused_by_a_run(
    cluster, odd, tmp_path
):
    (odd / "torch-2.0.0.dist-info").mkdir()
    (odd / "torch-2.0.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: torch\nVersion: 2.0.0\n"
    )
    difference = rf"torch 2\.0\.0 \(others: {re.escape(version('torch'))}\)\. Install the same versions on every node"
    told = on_cluster(cluster, tmp_path, *DOCTOR, "--out", str(tmp_path / "out"))
    assert re.search(rf"^wrong +versions .*{difference}", told, re.MULTILINE), told
    assert len(re.findall("^ok +versions", told, re.MULTILINE)) == 2, told
    told = on_cluster(
        cluster, tmp_path, str(GRID), "--image-size", "32", "--out", str(tmp_path / "out")
    )
    assert re.search(
        rf"error: all nodes must have the same versions.*versions on .*{difference}", told
    ), told


@pytest.mark.nightly
def test_a_node_that_cant_import_the_package_is_told_by_the_doctor_and_refused_by_a_run(
    cluster, odd, tmp_path
):
    (odd / "bioimg").mkdir()
    (odd / "bioimg" / "__init__.py").write_text("import nothing_of_this_name\n")
    reason = "ModuleNotFoundError: No module named 'nothing_of_this_name'. Install bioimg on this node as on the others"
    told = on_cluster(cluster, tmp_path, *DOCTOR, "--out", str(tmp_path / "out"))
    assert re.search(rf"^wrong +imports bioimg .*{reason}", told, re.MULTILINE), told
    assert len(re.findall("^ok +imports bioimg", told, re.MULTILINE)) == 2, told
    told = on_cluster(
        cluster, tmp_path, str(GRID), "--image-size", "32", "--out", str(tmp_path / "out")
    )
    assert re.search(
        rf"error: all nodes must have the same versions.*imports bioimg on .*{reason}", told
    ), told


@pytest.mark.nightly
def test_a_run_on_nodes_that_are_alike_and_share_its_folder_may_start(cluster, tmp_path):
    run_checks.run_preflight_checks(tmp_path.as_uri())
    assert not list(tmp_path.iterdir())


@pytest.mark.nightly
def test_a_run_whose_results_arent_shared_is_refused_before_a_trial_starts(
    cluster, tmp_path, monkeypatch
):
    monkeypatch.setattr(node_probe, "write_marker", lambda out, name: None)
    monkeypatch.setattr(node_probe, "delete_marker", lambda out, name: None)
    told = r"must have the same versions and share `out`: results storage on .*not the same folder.*--out"
    with pytest.raises(UserError, match=told):
        run_checks.run_preflight_checks(tmp_path.as_uri())


@pytest.mark.nightly
def test_devices_that_another_program_holds_are_told_and_the_rest_of_the_node_is_judged(
    cluster, tmp_path, monkeypatch
):
    monkeypatch.setattr(run_checks, "NODE_TIMEOUT_S", 10.0)
    monkeypatch.setattr(node_probe, "probe_node", lambda *args: {**WELL, "clock": time.time()})
    monkeypatch.setattr(node_probe, "probe_devices", lambda: time.sleep(60))
    lines = run_checks.run_all_checks(tmp_path.as_uri())
    assert all(
        "no answer in 10 s. Is it busy" in (line.problem or "") for line in of(lines, "devices")
    )
    assert not any(line.problem for line in of(lines, "results storage"))


def test_a_bucket_that_cant_be_written_is_a_line_and_no_traceback(monkeypatch):
    monkeypatch.setattr(run_checks, "_alive_nodes", lambda: [])
    (line,) = run_checks.run_all_checks("nonsense://bucket/folder")
    assert line.check == "results storage"
    assert "Set --out to a writable folder" in (line.problem or "")


@pytest.mark.nightly
def test_storage_that_another_node_doesnt_see_is_told(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(node_probe, "write_marker", lambda out, name: None)
    monkeypatch.setattr(node_probe, "delete_marker", lambda out, name: None)
    lines = of(run_checks.run_all_checks(tmp_path.as_uri()), "results storage")
    assert all(
        "not the same folder as where bioimg was started" in (line.problem or "") for line in lines
    )


@pytest.mark.nightly
def test_a_node_that_never_answers_is_given_up(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(run_checks, "NODE_TIMEOUT_S", 1.0)
    monkeypatch.setattr(node_probe, "probe_node", lambda *args: time.sleep(60))
    lines = run_checks.run_all_checks(tmp_path.as_uri())
    assert [line.check for line in lines] == ["answers", "answers"]
    assert "no answer in 1 s" in (lines[0].problem or "")


@pytest.mark.nightly
def test_a_node_that_dies_while_it_is_asked_is_a_line_and_the_others_are_judged(
    cluster, tmp_path, monkeypatch
):
    doomed = cluster.add_node(num_cpus=1, object_store_memory=10**8).node_id
    cluster.wait_for_nodes()

    def gather_or_die(*args):
        if ray.get_runtime_context().get_node_id() == doomed:
            os.kill(os.getppid(), signal.SIGKILL)  # the node's own process
            time.sleep(60)
        return {**WELL, "clock": time.time()}

    monkeypatch.setattr(run_checks, "NODE_TIMEOUT_S", 10.0)
    monkeypatch.setattr(node_probe, "probe_node", gather_or_die)
    monkeypatch.setattr(node_probe, "probe_devices", lambda: None)
    lines = run_checks.run_all_checks(tmp_path.as_uri())
    (silent,) = of(lines, "answers")
    assert "restart ray there" in (silent.problem or "").lower()
    assert len(of(lines, "versions")) == 2


def test_clocks_may_differ_by_less_than_the_time_of_asking():
    assert not wrong(skew=diagnosis.MAX_CLOCK_SKEW_S)
