"""A cluster of three hosts from experiments/clusters/onprem.yaml, in namespaces of this machine."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from bioimg.results.result_store import read_results
from support import PROJECT, hosts
from support.processes import wait_until
from support.results import assert_same_results

EPOCHS = 8
GRID = (
    "--model resnext_tiny --weights TEXTURES_V2 --image-size 64 --precision float32 "
    "--learning-rate 5e-4 --batch-size 16 32 --freeze none features "
    f"--epochs {EPOCHS} --workers 2"
)


@dataclass(frozen=True)
class Cluster:
    """Three hosts of one CPU each, and the user at the desk."""

    lab: hosts.Lab
    file: Path

    def desk(self, command: str) -> str:
        """Run a command at the desk in the project's folder; return what it prints."""
        return self.lab.desk.run(f"cd {PROJECT} && {command}")

    def hosts_up(self) -> int:
        """Return how many hosts Ray counts, which is how many CPUs."""
        found = re.search(r"/(\d+)\.0 CPU", self.desk(f"ray exec {self.file} 'ray status'"))
        return int(found[1]) if found else 0


@pytest.fixture
def cluster(tmp_path) -> Iterator[Cluster]:
    """Start hosts and write the cluster's file with their addresses and one CPU for each host."""
    if why := hosts.missing():
        pytest.skip(why)
    profile = (
        f"export PATH={Path(sys.executable).parent}:$PATH "
        f"PYTHONPATH=~/bioimg:{PROJECT} RAY_USAGE_STATS_ENABLED=0\n"
    )
    with hosts.lab(tmp_path / "lab", ("one", "two", "three"), profile) as lab:
        text = (PROJECT / "experiments" / "clusters" / "onprem.yaml").read_text()
        for number, address in zip((10, 11, 12), lab.address.values(), strict=True):
            text = text.replace(f"192.168.1.{number}", address)
        file = tmp_path / "onprem.yaml"
        file.write_text(
            text.replace("ray start", "ray start --num-cpus=1 --object-store-memory=200000000")
        )
        yield Cluster(lab, file)


@pytest.mark.nightly
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("no_ray")
def test_lost_host_changes_nothing_in_the_tables(cluster, tiles, tmp_path):
    lab = cluster.lab
    on_hosts = tmp_path / "hosts"
    alone = tmp_path / "alone"
    desk = ThreadPoolExecutor(1)
    cluster.desk("ray get-auth-token --generate && chmod 600 ~/.ray/auth_token")
    cluster.desk(f"ray up --yes {cluster.file}")
    wait_until(lambda: cluster.hosts_up() == 3, "all hosts to join", 180)
    doctor = f"ray exec {cluster.file} 'bioimg doctor --out {on_hosts} --workers 2'"
    cluster.desk(doctor)
    private = (
        "BIOIMG_CACHE=/dev/shm/decoded bioimg doctor "
        f"--out /dev/shm/results --data {tiles} --image-size 20000"
    )
    message = cluster.desk(f"ray exec {cluster.file} '{private}' || true")
    for check, way_out in {
        "results storage": "--out to a folder that all nodes share",
        "images": "set BIOIMG_CACHE",
    }.items():
        others = re.findall(
            rf"^wrong +{check} +(\w+) .*not the same folder.*{way_out}", message, re.MULTILINE
        )
        assert sorted(others) == ["three", "two"], (
            f"{check}: the head's /dev/shm isn't that of the others\n{message}"
        )

    submit = (
        f"ray submit {cluster.file} experiments/grid.py -- --data {tiles} {GRID} --out {on_hosts}"
    )
    grid = desk.submit(cluster.desk, submit)
    part = wait_until(
        lambda: next(on_hosts.rglob("parts/*.epochs.parquet"), None),
        "the first epoch of a trial",
        180,
    )
    trained = [name for name, host in lab.hosts.items() if host.runs("RayTrainWorker")]
    assert len(trained) == 2, "a trial's two workers weren't on two hosts"
    lab.hosts[trained[1]].cut()  # never the first, which is the head
    before = pq.read_table(part).to_pandas()
    assert 1 <= len(before) < EPOCHS, "no trial was under way, so this test says nothing"
    grid.result()
    lab.switch_on(trained[1])
    wait_until(
        lambda: lab.hosts[trained[1]].runs("raylet"),
        "Ray to be started again where it was lost",
        180,
    )
    wait_until(
        lambda: f"{lab.address[trained[1]]}:" in cluster.desk(doctor),
        "the lost host to be taken in again",
        60,
    )
    cluster.desk(f"ray down --yes {cluster.file}")

    cluster.desk(f"python experiments/grid.py --data {tiles} {GRID} --lanes 1 --out {alone}")
    struck = read_results(on_hosts)
    assert_same_results(struck, read_results(alone))
    resumed = before.merge(struck.epochs, on=["key", "epoch"])
    assert resumed["seconds_x"].equals(resumed["seconds_y"]), (
        "the trial didn't resume where it was, but started over"
    )
    wait_until(
        lambda: not any(host.runs("raylet") for host in lab.hosts.values()),
        "the workers to leave",
        120,
    )


@pytest.mark.ray
def test_submitted_program_finds_the_experiments_of_the_project(tmp_path):
    """`ray submit` sends the program alone; the cluster's file has sent the project before."""
    program = shutil.copy(PROJECT / "experiments" / "grid.py", tmp_path)
    shutil.copytree(PROJECT / "experiments", tmp_path / "bioimg" / "experiments")
    env = {**os.environ, "HOME": str(tmp_path), "PYTHONPATH": str(PROJECT)}
    help_process = subprocess.run(
        [sys.executable, program, "report", "--help"], capture_output=True, text=True, env=env
    )
    assert "The grid of the report" in help_process.stdout, help_process.stderr
