"""A cluster of three hosts, made as README says, on namespaces of this machine."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import hosts
import pandas as pd
import pyarrow.parquet as pq
import pytest
from test_cluster import same

from bioimg.results.store import read

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(600)]

PROJECT = Path(__file__).parent.parent
EPOCHS = 8
GRID = (
    "--model resnext_tiny --weights TEXTURES_V2 --image-size 64 --precision float32 --learning-rate 5e-4 "
    f"--batch-size 16 32 --freeze none features --epochs {EPOCHS} --workers 2"
)


@dataclass(frozen=True)
class Cluster:
    """Three hosts with Ray, and the user at the desk."""

    lab: hosts.Lab
    file: Path

    def desk(self, command: str) -> str:
        """What a command at the desk prints; it must succeed."""
        ended = self.lab.desk.run(f"cd {PROJECT} && {command}", stdin=subprocess.DEVNULL, timeout=300)
        assert ended.returncode == 0, f"{command}\n{ended.stdout}\n{ended.stderr}"
        return ended.stdout

    def on_head(self, command: str) -> str:
        return self.desk(f"ray exec {self.file} '{command}'")

    def complete(self) -> bool:
        return "/3.0 CPU" in self.on_head("ray status")


@pytest.fixture
def cluster(tmp_path) -> Iterator[Cluster]:
    """experiments/clusters/onprem.yaml with the lab's addresses, and hosts of one CPU each."""
    if why := hosts.missing():
        pytest.skip(why)
    profile = f"export PATH={Path(sys.executable).parent}:$PATH PYTHONPATH=~/bioimg RAY_USAGE_STATS_ENABLED=0\n"
    with hosts.lab(tmp_path, 3, profile) as lab:
        text = (PROJECT / "experiments" / "clusters" / "onprem.yaml").read_text()
        for number, address in zip((10, 11, 12), lab.address.values(), strict=True):
            text = text.replace(f"192.168.1.{number}", address)
        file = tmp_path / "onprem.yaml"
        file.write_text(text.replace("ray start", "ray start --num-cpus=1 --object-store-memory=200000000"))
        yield Cluster(lab, file)


def workers(host: hosts.Host) -> bool:
    """Whether a host trains."""
    return any("RayTrainWorker" in " ".join(process.cmdline()) for process in host.processes())


def test_a_cluster_of_ones_own_machines_loses_a_host_in_mid_trial_and_gives_the_table_of_one_machine(cluster, tiles, tmp_path):
    lab, out = cluster.lab, tmp_path / "results"
    cluster.desk("ray get-auth-token --generate && chmod 600 ~/.ray/auth_token")
    cluster.desk(f"ray up --yes {cluster.file}")
    hosts.until(cluster.complete, "all hosts to join", 120)

    submit = f"ray submit {cluster.file} experiments/grid.py -- --data {tiles} {GRID} --out {out / 'hosts'}"
    running = subprocess.Popen(lab.desk.argv(f"cd {PROJECT} && {submit}"), stdin=subprocess.DEVNULL, stdout=(tmp_path / "said").open("w"), stderr=subprocess.STDOUT)
    part = hosts.until(lambda: next(out.rglob("*.epochs.parquet"), None), "a first epoch", 120)
    before = pq.read_table(part).to_pandas()
    lost = next(name for name in lab.names[1:] if workers(lab.hosts[name]))
    lab.hosts[lost].cut()
    assert 1 <= len(before) < EPOCHS, "no trial was under way, so this test says nothing"
    print("cut", lost, time.time())
    lab.switch_on(lost)
    hosts.until(cluster.complete, "the lost host to come back", 120)
    print("back", lost, time.time())
    assert running.wait(timeout=200) == 0, (tmp_path / "said").read_text()
    print("done", time.time())
    on_hosts = read(out / "hosts")
    again = on_hosts.epochs.merge(before, on=["key", "epoch"])
    assert again["seconds_x"].tolist() == before["seconds"].tolist(), "the trial wasn't resumed, but begun anew"

    cluster.desk(f"ray down --yes {cluster.file}")
    lab.desk.run(f"cd {PROJECT} && python experiments/grid.py --data {tiles} {GRID} --lanes 1 --out {out / 'alone'}", check=True, timeout=200)
    same(on_hosts, read(out / "alone"))
    assert on_hosts.trials["status"].tolist() == ["completed"] * 4
