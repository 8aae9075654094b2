"""The files that start a cluster, checked against Ray's schema and moto's simulated AWS."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from support import PROJECT

pytestmark = pytest.mark.filterwarnings("ignore")

FILES = (PROJECT / "cluster.yaml", PROJECT / "experiments" / "clusters" / "onprem.yaml")
KUBERAY = PROJECT / "experiments" / "clusters" / "kuberay.yaml"
SBATCH = PROJECT / "experiments" / "clusters" / "slurm.sbatch"
TO_INSTALL = {"pyproject.toml", "README.md"}


def load(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_ray_accepts_the_file(path):
    validate_config(prepare_config(load(path)))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_ray_asks_for_the_token_and_its_dashboard_stays_on_the_head(path):
    config = load(path)
    commands = config["head_start_ray_commands"] + config["worker_start_ray_commands"]
    starts = [command for command in commands if "ray start" in command]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token" in start for start in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_misspelt_key_is_refused(path):
    with pytest.raises(Exception, match="max_wrokers"):
        validate_config({**prepare_config(load(path)), "max_wrokers": 2})


def test_ray_on_aws_is_the_oldest_that_the_project_supports():
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    (requirement,) = [line for line in project["dependencies"] if line.startswith("ray[")]
    oldest = re.findall(r">=([\d.]+)", requirement)[0]
    config = load(FILES[0])
    assert re.search(rf"ray:{re.escape(oldest)}[.-]", config["docker"]["image"])
    assert any(f"=={oldest}" in command for command in config["setup_commands"])


def send_project(path: Path, home: Path) -> Path:
    """Copy what a cluster's file mounts to a machine's home, as Ray does; return ~/bioimg."""
    config = load(path)
    excludes = [f"--exclude={name}" for name in config["rsync_exclude"]]
    for target, source in config["file_mounts"].items():
        if source.startswith("~"):
            continue
        destination = home / target.removeprefix("~/")
        destination.parent.mkdir(parents=True, exist_ok=True)
        slash = "/" if (PROJECT / source).is_dir() else ""
        command = ["rsync", "-a", *excludes, f"{PROJECT / source}{slash}", destination]
        subprocess.run(command, check=True)
    return home / "bioimg"


@pytest.mark.ray
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_machines_get_the_project_without_results_environments_and_caches(path, tmp_path):
    if not shutil.which("rsync"):
        pytest.skip("needs rsync")
    project = send_project(path, tmp_path)
    names = {entry.name for entry in project.iterdir()}
    assert {"bioimg", "experiments"} <= names <= {"bioimg", "experiments", *TO_INSTALL}
    assert (project / "experiments" / "grid.py").is_file()
    assert not list(project.rglob("__pycache__"))
    size = sum(file.stat().st_size for file in project.rglob("*"))
    assert size < 12e6, "Ray reads all of it at each `ray up`"


@pytest.mark.ray
def test_pip_can_build_what_a_machine_on_aws_gets(tmp_path):
    (install,) = [
        command for command in load(FILES[0])["setup_commands"] if "pip install" in command
    ]
    assert " ~/bioimg " in install
    if not shutil.which("rsync"):
        pytest.skip("needs rsync")
    project = send_project(FILES[0], tmp_path)
    build = [
        sys.executable,
        "-c",
        "import sys; from setuptools.build_meta import *; print(build_wheel(sys.argv[1]))",
        tmp_path,
    ]
    subprocess.run(build, cwd=project, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as content:
        names = set(content.namelist())
    assert {"bioimg/cli/main.py", "bioimg/cluster/lanes.py", "bioimg/report/page.html"} <= names
    assert not [name for name in names if name.startswith("experiments")]


def token_command(path: Path) -> str:
    """Return the first command in a file that makes Ray's token."""
    text = path.read_text(encoding="utf-8")
    return re.findall(r"ray get-auth-token --generate[^#\n]*", text)[0].strip()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_token_command_is_the_same_in_all_files(path):
    assert token_command(path) == token_command(PROJECT / "README.md")


@pytest.mark.ray
def test_documented_token_command_lets_only_its_owner_read(tmp_path):
    """Ray alone would leave the token readable for everybody."""
    line = token_command(PROJECT / "README.md")
    env = {
        **os.environ,
        "HOME": str(tmp_path),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    subprocess.run(["sh", "-c", line], env=env, check=True, capture_output=True)
    token = tmp_path / ".ray" / "auth_token"
    assert (token.stat().st_mode & 0o777, len(token.read_text())) == (0o600, 64)


@pytest.fixture
def aws(monkeypatch, tmp_path):
    """Simulate AWS in this process, with a home without credentials."""
    moto = pytest.importorskip("moto", reason="needs moto[ec2,iam]: pip install -e '.[dev]'")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    no_wait = SimpleNamespace(sleep=lambda seconds: None)  # a new role needn't spread here
    monkeypatch.setattr("ray.autoscaler._private.aws.config.time", no_wait)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with moto.mock_aws(config={"iam": {"load_aws_managed_policies": True}}):
        yield


@pytest.mark.nightly
def test_aws_creates_the_machines_of_the_file(aws):
    """Ray creates key, security group, subnets and role, and then a spot machine with a GPU."""
    import boto3
    from ray.autoscaler._private.aws.config import bootstrap_aws
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

    # as the end of the file says
    boto3.client("iam").create_instance_profile(InstanceProfileName="bioimg")
    config = bootstrap_aws(prepare_config(load(FILES[0])))
    worker = config["available_node_types"]["worker"]["node_config"]
    provider = AWSNodeProvider(config["provider"], config["cluster_name"])
    provider.create_node(
        worker, {"ray-node-type": "worker", "ray-node-name": "w", "ray-user-node-type": "worker"}, 1
    )
    ec2 = boto3.client("ec2", region_name=config["provider"]["region"])
    (reservation,) = ec2.describe_instances()["Reservations"]
    (machine,) = reservation["Instances"]
    node_types = load(FILES[0])["available_node_types"]
    assert machine["ImageId"] == node_types["worker"]["node_config"]["ImageId"]
    assert machine["InstanceType"] == worker["InstanceType"]
    assert machine["InstanceLifecycle"] == "spot"
    assert machine["IamInstanceProfile"]["Arn"].endswith("instance-profile/bioimg")
    groups = ec2.describe_security_groups()["SecurityGroups"]
    (group,) = [group for group in groups if group["GroupName"].startswith("ray-autoscaler")]
    open_ports = [
        permission["FromPort"]
        for permission in group["IpPermissions"]
        if "0.0.0.0/0" in [address["CidrIp"] for address in permission["IpRanges"]]
    ]
    assert open_ports == [22]


def test_aws_machines_have_the_image_set_at_the_top():
    """Ray's own image has a driver that is too old for torch."""
    images = {
        kind["node_config"]["ImageId"] for kind in load(FILES[0])["available_node_types"].values()
    }
    top = FILES[0].read_text().split("# ----")[1]
    assert [f"&image {image}" in top for image in images] == [True]
    parameter = "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-.*/ami-id"
    assert re.search(rf"aws ssm get-parameter .*\\\n.* {parameter}", top)


def test_aws_machines_start_for_work_and_stop_after_it():
    config = prepare_config(load(FILES[0]))
    assert config["idle_timeout_minutes"] == 10
    head, worker = (config["available_node_types"][name] for name in ("head", "worker"))
    assert (worker["min_workers"], worker["max_workers"]) == (0, config["max_workers"])
    assert head["resources"]["CPU"] == 0


@pytest.mark.parametrize("path", [*FILES, KUBERAY, SBATCH], ids=lambda path: path.name)
def test_no_file_holds_a_secret(path):
    assert not re.search(
        r"AKIA|aws_secret|AUTH_TOKEN=|password", path.read_text(encoding="utf-8"), re.IGNORECASE
    )


@pytest.mark.parametrize("path", [*FILES, KUBERAY, SBATCH], ids=lambda path: path.name)
def test_ray_sends_no_usage_statistics(path):
    """By default, a cluster's head sends them to Ray's makers."""
    setting = r"RAY_USAGE_STATS_ENABLED(=0|, value: \"0\")"
    lines = path.read_text(encoding="utf-8").splitlines()
    settings = [line for line in lines if re.search(setting, line)]
    assert len(settings) == 1
    if path in FILES:
        assert "ray start --head" in settings[0]


JOB = load(KUBERAY)["spec"]
GROUPS = [JOB["rayClusterSpec"]["headGroupSpec"], *JOB["rayClusterSpec"]["workerGroupSpecs"]]


JOB_FIELDS = {
    "entrypoint",
    "rayClusterSpec",
    "shutdownAfterJobFinishes",
    "ttlSecondsAfterFinished",
    "backoffLimit",
}
CLUSTER_FIELDS = {
    "rayVersion",
    "authOptions",
    "enableInTreeAutoscaling",
    "autoscalerOptions",
    "headGroupSpec",
    "workerGroupSpecs",
}
GROUP_FIELDS = {"rayStartParams", "template", "groupName", "minReplicas", "maxReplicas"}
"""Of KubeRay's Go types RayJobSpec, RayClusterSpec, HeadGroupSpec and WorkerGroupSpec."""


def test_kubernetes_job_has_only_fields_of_kuberay():
    """KubeRay would drop a misspelt field."""
    assert set(JOB) <= JOB_FIELDS
    assert set(JOB["rayClusterSpec"]) <= CLUSTER_FIELDS
    for group in GROUPS:
        assert set(group) <= GROUP_FIELDS


def test_kubernetes_job_runs_the_program_with_a_token_and_ends():
    assert "experiments/grid.py report" in JOB["entrypoint"]
    assert JOB["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    assert JOB["shutdownAfterJobFinishes"]
    # the autoscaler's plan isn't known where the job runs: the first GPU shows what lanes run on,
    # and --lanes how many there can be
    assert GROUPS[1]["minReplicas"] == 1
    assert f"--lanes {GROUPS[1]['maxReplicas']}" in JOB["entrypoint"]


def test_kubernetes_pods_share_image_folder_and_object_store_memory():
    pods = [group["template"]["spec"] for group in GROUPS]
    assert len({pod["containers"][0]["image"] for pod in pods}) == 1
    for pod in pods:
        mounts = pod["containers"][0]["volumeMounts"]
        assert {mount["mountPath"] for mount in mounts} == {"/shared", "/dev/shm"}
        volumes = {volume["name"] for volume in pod["volumes"]}
        assert {mount["name"] for mount in mounts} == volumes
    assert "nvidia.com/gpu" in pods[1]["containers"][0]["resources"]["limits"]


def test_kubernetes_and_aws_have_the_same_ray():
    assert f"ray:{JOB['rayClusterSpec']['rayVersion']}-" in load(FILES[0])["docker"]["image"]


def sbatch(folder: Path, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the Slurm file as sbatch does, with a `srun` that shows its arguments and its token."""
    tools = folder / "tools"
    tools.mkdir()
    token = '"$RAY_AUTH_TOKEN_PATH"'
    show_token = f'echo "mode=$RAY_AUTH_MODE $(stat -c %a {token}) $(wc -c <{token})"'
    programs = {
        "scontrol": "printf 'node7\\nnode8\\n'",
        "srun": f'{show_token}; printf "%s\\n" "$@"',
    }
    for name, body in programs.items():
        (tools / name).write_text(f"#!/bin/bash\n{body}\n")
        (tools / name).chmod(0o755)
    (folder / ".venv" / "bin").mkdir(parents=True)
    (folder / ".venv" / "bin" / "activate").touch()
    slurm = {
        "SLURM_SUBMIT_DIR": str(folder),
        "SLURM_JOB_NODELIST": "node[7-8]",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_JOB_ID": "12345",
    }
    path = {"PATH": f"{tools}:{os.environ['PATH']}", "HOME": str(folder)}
    return subprocess.run(
        ["bash", SBATCH, *args], capture_output=True, text=True, env={**path, **slurm, **env}
    )


@pytest.mark.ray
def test_slurm_starts_one_ray_on_all_nodes_with_a_new_token(tmp_path):
    program = sbatch(
        tmp_path, "report", "--data", "my tiles", SLURM_CPUS_PER_TASK="4", SLURM_GPUS_ON_NODE="1"
    )
    assert program.returncode == 0, program.stderr
    token, *arguments = program.stdout.splitlines()
    assert token == "mode=token 600 64"
    assert arguments[arguments.index("--address") + 1] == "node7:22345"
    assert arguments[arguments.index("--min-nodes") + 1] == "2"
    assert {"--num-cpus=4", "--num-gpus=1"} <= set(arguments)
    assert arguments[arguments.index("--") + 1 :] == [
        "python",
        "experiments/grid.py",
        "report",
        "--data",
        "my tiles",
    ]
    assert not list(tmp_path.glob(".bioimg-token*"))


@pytest.mark.ray
def test_slurm_file_without_sbatch_shows_how_to_run_it(tmp_path):
    program = sbatch(tmp_path, SLURM_SUBMIT_DIR="")
    assert program.returncode != 0
    assert "run this file with sbatch" in program.stderr


@pytest.mark.ray
def test_shellcheck_accepts_the_slurm_file():
    # beside Python, since the environment may not be activated
    program = shutil.which("shellcheck") or Path(sys.executable).with_name("shellcheck")
    subprocess.run([program, SBATCH], check=True)
