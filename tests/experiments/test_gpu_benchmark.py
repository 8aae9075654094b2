"""The benchmark for a GPU: its limits, what it finds, and all of it with little work on a CPU."""

import dataclasses
import sys

import benchmark
import pandas as pd
import psutil
import pytest
import torch

from benchmarks import lanes, process_tree
from benchmarks.gpu import benchmark as gpu_benchmark
from benchmarks.gpu import correctness
from benchmarks.gpu.benchmark import PHASES, GpuBenchmark, run_phases
from benchmarks.gpu.lanes import common_rate
from benchmarks.gpu.memory import ROUNDS, memory_targets
from benchmarks.gpu.profile import ByteCounter
from benchmarks.gpu.workload import NUMBER_FORMATS
from bioimg.config import TrialConfig
from bioimg.data.image_set import Dataset
from bioimg.training.batches import Batch
from bioimg.training.trial_trainer import EpochMetrics, TrialTrainer
from support import toys

ENDLESS = "import time\nwhile True: time.sleep(1)"
WITH_CHILD = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
open(sys.argv[1], "w").write(str(child.pid))
child.wait()
"""


def python(*arguments: str) -> list[str]:
    return [sys.executable, "-c", *arguments]


# limits of time


@pytest.mark.ray
def test_phase_over_its_limit_is_ended_with_its_children_and_the_others_run(tmp_path):
    file = tmp_path / "child"
    commands = {"hangs": python(WITH_CHILD, str(file)), "fails": python("1 / 0")}
    rows = run_phases({**commands, "works": python("")}, deadline_s=60, limit_s=4)
    assert {row["phase"]: row["end"] for row in rows} == {
        "hangs": "over its limit of 4 s",
        "fails": "failed with exit code 1",
        "works": "completed",
    }
    child = int(file.read_text())
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


@pytest.mark.ray
def test_phase_without_time_left_is_named_and_not_started(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_benchmark, "MIN_PHASE_S", 1)
    file = tmp_path / "started"
    late = python("import sys; open(sys.argv[1], 'w')", str(file))
    rows = run_phases({"first": python(ENDLESS), "late": late}, deadline_s=2, limit_s=60)
    assert [row["end"] for row in rows] == ["over its limit of 2 s", "left out: no time"]
    assert not file.exists()


def test_without_a_gpu_one_line_says_what_to_do(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "gpu", "--out", str(tmp_path)])
    assert benchmark.main() == 2
    text = "error: no GPU was found. Give --small to do little work on the CPU.\n"
    assert capsys.readouterr().err == text


# what phases find


@pytest.fixture
def small_trial() -> tuple[TrialConfig, Dataset]:
    trial = TrialConfig(
        model="resnext_tiny", weights="none", image_size=16, batch_size=12, freeze="layer2"
    )
    trial = dataclasses.replace(trial, epochs=2, precision="float32")
    return trial, toys.dataset(trial)


def test_right_trial_is_as_on_the_cpu(small_trial):
    assert correctness.check_trial(*small_trial) == {
        "from CPU": 0.0,
        "twice": 0.0,
        "resumed": 0.0,
        "wrong parts": "",
        "waits": "",
    }


def test_incomplete_state_and_changed_frozen_layer_are_found(small_trial, monkeypatch):
    def change_frozen_layer(self: TrialTrainer, epoch: EpochMetrics) -> EpochMetrics:
        self.classifier.model.get_parameter("conv1.weight").data += 1
        return add_epoch(self, epoch)

    add_epoch = TrialTrainer.add_epoch
    monkeypatch.setattr(TrialTrainer, "add_epoch", change_frozen_layer)
    monkeypatch.setattr(torch.optim.AdamW, "load_state_dict", lambda self, state: None)
    row = correctness.check_trial(*small_trial)
    assert row["resumed"] > 0
    assert row["wrong parts"] == "conv1"


def test_step_that_waits_is_named(monkeypatch):
    def wait(self: TrialTrainer, batch: Batch) -> torch.Tensor:
        raise RuntimeError("called a synchronizing CUDA operation")

    monkeypatch.setattr(TrialTrainer, "forward", wait)
    assert "synchronizing" in correctness.find_wait(toys.run(toys.trial()))


def test_each_fault_misses_its_target():
    good = {"from CPU": 0.001, "twice": 0.0, "resumed": 0.0, "wrong parts": "", "waits": ""}
    rows = [{**good, "format": name} for name in correctness.TOLERANCES]
    assert all(target.is_met for target in correctness.correctness_targets(rows))
    bad = {"from CPU": 0.1, "twice": 1e-9, "resumed": 1e-9, "wrong parts": "fc", "waits": "copy"}
    rows = [{**bad, "format": name} for name in correctness.TOLERANCES]
    assert not any(target.is_met for target in correctness.correctness_targets(rows))


@pytest.mark.parametrize(
    ("peak", "status", "met"),
    [(100, "completed", [True, True]), (110, "failed", [False, False])],
)
def test_growing_memory_and_a_lost_trial_miss_their_targets(peak, status, met):
    rounds = [{"round": number, "peak MiB": 100} for number in range(1, ROUNDS)]
    rounds.append({"round": ROUNDS, "peak MiB": peak})
    targets = memory_targets([*rounds, {"status": "failed"}, {"status": status}])
    assert [target.is_met for target in targets] == met


def test_rate_of_lanes_counts_only_what_they_trained_at_once():
    trials = pd.DataFrame({"key": ["a", "b"], "started": [0.0, 2.0], "ended": [8.0, 10.0]})
    epochs = pd.DataFrame({"key": ["a"] * 5 + ["b"] * 4, "seconds": [2.0, 1, 1, 2, 2, 2, 2, 2, 2]})
    ran = lanes.GridRun(process_tree.ProcessCost(0.0), trials.assign(train_images=100), epochs)
    assert common_rate(ran) == pytest.approx(100 * 4 / 6 + 100 * 3 / 6)


def test_bytes_of_operations_are_those_that_they_read_and_write():
    numbers = torch.zeros(1000)
    with ByteCounter() as counter:
        numbers.view(10, 100).add(1)
    assert counter.count == 2 * numbers.nbytes


# every phase, with little work


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@pytest.mark.usefixtures("no_ray")
def test_small_work_completes_every_phase_with_right_outcomes(tmp_path):
    outcome = GpuBenchmark(small=True, out=tmp_path, deadline=3000, limit=600).run()
    assert [row["end"] for row in outcome.rows] == ["completed"] * len(PHASES)
    missed = [str(target) for target in outcome.targets if not target.is_met]
    assert [text for text in missed if "DataLoader" not in text] == []

    tables = {name: pd.read_parquet(tmp_path / f"gpu-{name}.parquet") for name in PHASES}
    assert set(tables["correctness"]["trial"]) > {"layer2 adamw", "features adamw", "none sgd"}
    assert set(tables["correctness"]["wrong parts"]) == {""}
    assert set(tables["correctness"]["resumed"]) == {0.0}
    *statuses, too_large, next_trial = tables["memory"]["status"]
    assert (set(statuses), too_large, next_trial) == ({"completed"}, "failed", "completed")
    assert tables["memory"]["error"].iloc[-2] == "OutOfMemoryError"
    (kill,) = tables["kill"].to_dict("records")
    assert (kill["killed workers"], kill["trials"], kill["completed"]) == (1, 2, 2)
    assert tables["lanes"]["lanes"].tolist() == [1, 2]
    assert tables["throughput"]["format"].tolist() == list(NUMBER_FORMATS)
    assert tables["profile"]["calls"].iloc[0] > tables["profile"]["calls"].iloc[1] > 0
    for name in ("loader", "throughput", "lanes", "compile"):
        assert (tables[name]["images/s"] > 0).all()


@pytest.mark.gpu
@pytest.mark.timeout(600)
def test_gpu_is_right_with_little_work(tmp_path):
    part = GpuBenchmark(small=True, out=tmp_path, only=("machine", "correctness", "memory"))
    assert [target for target in part.run().targets if not target.is_met] == []
