"""The benchmark is fair and reports what it measured.

All baselines do the same work, and a target's verdict is the exit status.
"""

import dataclasses
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import benchmark
import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from PIL import Image
from rich.console import Console

from benchmarks import (
    grid,
    images,
    lanes,
    overhead,
    process_tree,
    recipe_agreement,
    scale,
    start,
    step,
    tuned_grid,
)
from benchmarks.baselines import bioimg_grid, pytorch_loop
from benchmarks.baselines.task import Configuration, ConfigurationResult, Task, read_rows
from benchmarks.early_stopping import (
    EarlyStoppingBenchmark,
    RecordedCurve,
    best_values_kept,
    make_plain_rule,
    read_curves,
    read_validation_images,
    replay_trials,
    score_replay,
    summarise_replays,
)
from benchmarks.harness import Outcome, Target, elapsed_seconds, publish_outcome
from bioimg.config import TrialConfig
from bioimg.data import load_dataset
from bioimg.early_stopping import StoppingRule, ValidationImages
from bioimg.errors import UserError
from bioimg.experiment import EarlyStopping
from bioimg.results.result_store import read_results
from bioimg.training.batches import Batch
from bioimg.training.trial_trainer import TrialTrainer
from support.experiments import grid_experiment, run_experiment

CPU = torch.device("cpu")
CUDA = torch.device("cuda")


@pytest.fixture
def task(tmp_path) -> Task:
    """Two configurations on 30 images of noise in 3 classes."""
    generator = np.random.default_rng(0)
    source = tmp_path / "source"
    for name in ("A", "B", "C"):
        (source / name).mkdir(parents=True)
        for number in range(12):
            pixels = generator.integers(256, size=(32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(source / name / f"{number}.png")
    weights = tmp_path / "random.pth"
    torch.save(torchvision.models.get_model("resnext_tiny", weights=None).state_dict(), weights)
    return Task(
        folder=str(images.copy_subsets(source, tmp_path / "images", 10)),
        weights=(str(weights),),
        batch_sizes=(4,),
        epochs=2,
        model="resnext_tiny",
        image_size=32,
    )


def without_scores(rows: Iterable[ConfigurationResult]) -> list[ConfigurationResult]:
    """Return what was done; only whether there is a test accuracy stays of the scores."""
    work = []
    for row in rows:
        is_tested = row.test_accuracy is not None
        row = row._replace(val_losses=None, test_correct=None)
        work.append(row._replace(val_accuracy=0.0, test_accuracy=0.0 if is_tested else None))
    return work


def sequential_setup(size: int, device: torch.device = CPU) -> pytorch_loop.TrainingSetup:
    """Return the loop's setup, which loads images in this process."""
    return pytorch_loop.sequential_setup(size, device)._replace(loader_processes=0)


def torchvision_setup(size: int, device: torch.device = CPU) -> pytorch_loop.TrainingSetup:
    """Return torchvision's setup, which loads images in this process."""
    return pytorch_loop.torchvision_setup(size, device)._replace(loader_processes=0)


# all baselines do the same work


def test_subsets_are_disjoint_and_of_fixed_shares(task):
    files = {subset: list(Path(task.folder, subset).rglob("*.png")) for subset in ("train", "val")}
    files["test"] = list(Path(task.folder, "test").rglob("*.png"))
    assert {subset: len(paths) for subset, paths in files.items()} == {
        "train": 12,
        "val": 6,
        "test": 12,
    }
    names = {path.relative_to(task.folder).parts[1:] for paths in files.values() for path in paths}
    assert len(names) == 30


@pytest.mark.nightly
def test_baselines_train_the_same_configurations_and_epochs(task, tmp_path):
    ours = list(bioimg_grid.run_task(task, tmp_path, early_stopping=False, local=True))
    sequential = pytorch_loop.run_task(sequential_setup, task, tmp_path)
    reference = pytorch_loop.run_task(torchvision_setup, task, tmp_path)
    assert [row.configuration for row in ours] == task.configurations()
    assert without_scores(ours) == without_scores(sequential) == without_scores(reference)
    assert {row.epochs for row in ours} == {2}


def test_loop_sees_images_as_this_project_does(task):
    loader = pytorch_loop.make_loader(task, task.configurations()[0], sequential_setup(32), "val")
    expected = torch.cat([batch for batch, _ in loader])
    trial = bioimg_grid.build_experiment(task, early_stopping=False).trials()[0]
    dataset = load_dataset(trial.dataset_config, trial.split_config)
    split = dataset.split
    trainer = TrialTrainer(trial, dataset.images, split, device=torch.device("cpu"))
    batch = Batch(split.val, np.zeros(len(split.val), dtype=np.int64))
    ours = trainer.input_source.load_batch(batch)
    torch.testing.assert_close(expected, ours.contiguous(), atol=1e-5, rtol=0)


def test_loop_on_a_cpu_is_plain_float32():
    setup = pytorch_loop.sequential_setup(32, CPU)
    images = torch.zeros(1, 3, 32, 32)
    ((batch, _),) = setup.iter_batches([(images, torch.zeros(1))])  # type: ignore[arg-type]
    assert batch is images
    assert not setup.autocast()._enabled
    assert not setup.loss_scaler().is_enabled()
    assert setup.loader_processes == 1


@pytest.mark.parametrize(
    ("has_bfloat16", "dtype", "scales_loss"),
    [(True, torch.bfloat16, False), (False, torch.float16, True)],
)
def test_loop_on_a_gpu_uses_its_fast_format(monkeypatch, has_bfloat16, dtype, scales_loss):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **options: has_bfloat16)
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    setup = pytorch_loop.sequential_setup(32, CUDA)
    assert setup.autocast_dtype == dtype
    assert setup.loss_scaler().is_enabled() == scales_loss
    assert setup.memory_format == torch.channels_last
    assert pytorch_loop.torchvision_setup(32, CUDA).autocast_dtype == torch.float16


def test_loop_trains_the_same_way_with_scaled_losses(task, monkeypatch):
    setup = sequential_setup(32)._replace(memory_format=torch.channels_last)
    configuration = task.configurations()[0]
    *_, plain = pytorch_loop.train_configuration(task, configuration, setup)
    scaler = torch.amp.GradScaler("cpu")
    monkeypatch.setattr(pytorch_loop.TrainingSetup, "loss_scaler", lambda setup: scaler)
    *_, scaled = pytorch_loop.train_configuration(task, configuration, setup)
    assert scaled == plain
    assert scaler.get_scale() > 1


def test_frozen_loop_changes_only_the_head(task, monkeypatch):
    models = []
    build_model = pytorch_loop.build_model

    def keep_model(*args):
        models.append(build_model(*args))
        return models[-1]

    monkeypatch.setattr(pytorch_loop, "build_model", keep_model)
    configuration = Configuration(task.weights[0], 4, "features", 1e-4)
    list(pytorch_loop.train_configuration(task, configuration, sequential_setup(32)))
    before = torch.load(task.weights[0], weights_only=True)
    after = models[0].state_dict()
    backbone = [name for name in before if not name.startswith("fc.")]
    assert all(torch.equal(before[name], after[name]) for name in backbone)


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore")
def test_ray_baseline_does_the_same_work(task, tmp_path):
    task = dataclasses.replace(task, freezes=("none",))
    task.write(tmp_path / "task.json")
    program = ("-m", "benchmarks.baselines.ray_documented")
    cost = process_tree.measure_python([*program, "ray", str(tmp_path)])
    rows = read_rows(tmp_path)
    assert {row.configuration for row in rows} == set(task.configurations())
    assert {row[1:5] for row in rows} == {(2, 12, 6, 12)}
    assert all(row.test_accuracy is not None for row in rows)
    assert cost.cpu_seconds > 1


# the cost of a program


@pytest.mark.ray
def test_cost_includes_child_processes():
    child = (
        "import time; x = bytearray(200_000_000); t = time.process_time()\n"
        "while time.process_time() < t + 1: pass"
    )
    parent = (
        f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}], check=True)"
    )
    cost = process_tree.measure_python(["-c", parent])
    assert cost.peak_memory > 200_000_000
    assert max(cost.own_memory) < 100_000_000
    assert cost.cpu_seconds > 0.4
    assert cost.seconds >= 1


@pytest.mark.ray
def test_failed_program_shows_its_output():
    with pytest.raises(process_tree.ProgramError, match=r"ended with 1:[\s\S]*ZeroDivisionError"):
        process_tree.measure_python(["-c", "1 / 0"])


# targets and outputs


@pytest.mark.parametrize(
    ("target", "line"),
    [
        (Target("speed", 4.2, 4.0, "times"), "speed: 4.2 times against at least 4 times: holds"),
        (
            Target("speed", 3.9, 4.0, "times"),
            "speed: 3.9 times against at least 4 times: falls short",
        ),
        (Target("gap", 0.15, 0.15, "s", at_most=True), "gap: 0.15 s against at most 0.15 s: holds"),
        (
            Target("gap", 0.2, 0.15, "s", at_most=True),
            "gap: 0.2 s against at most 0.15 s: falls short",
        ),
        (
            Target("gap", None, 0.15, "s", at_most=True),
            "gap: not measured against at most 0.15 s: falls short",
        ),
    ],
)
def test_target_line_has_figure_limit_and_verdict(target, line):
    assert str(target) == line


def test_outcome_is_printed_and_written_as_parquet(tmp_path, capsys):
    rows = [{"who": "ours", "seconds": 2.0}, {"who": "theirs", "seconds": None}]
    outcome = Outcome("Title", rows, [Target("a", 1.0, 2.0, "s"), Target("b", 3.0, 2.0, "s")])
    assert not publish_outcome("part", outcome, tmp_path, Console(file=sys.stdout))
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "part: a: 1 s against at least 2 s: falls short",
        "part: b: 3 s against at least 2 s: holds",
    ]
    written = pd.read_parquet(tmp_path / "part.parquet")
    assert written["seconds"].isna().tolist() == [False, True]
    assert {"measured_at", "processor", "cores", "gpu", "torch", "bioimg"} <= set(written)
    assert pd.read_parquet(tmp_path / "part-targets.parquet")["holds"].tolist() == [False, True]


@pytest.mark.parametrize(("figure", "code"), [(1.0, 1), (3.0, 0)])
def test_exit_status_is_whether_targets_hold(tmp_path, monkeypatch, figure, code):
    outcome = Outcome("", [{"a": 1}], [Target("a", figure, 2.0, "s")])
    monkeypatch.setattr(step.StepBenchmark, "run", lambda self: outcome)
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "step", "--out", str(tmp_path)])
    assert benchmark.main() == code


@pytest.mark.parametrize(
    ("codes", "code"),
    [((0,) * 9, 0), ((0, 1, *(0,) * 7), 1), ((0, -9, *(0,) * 7), 9)],
)
def test_all_parts_run_in_processes_of_their_own(monkeypatch, codes, code, capsys):
    names = []
    remaining = iter(codes)

    def call(command: Sequence[str]) -> int:
        names.append(command[-1])
        return next(remaining)

    monkeypatch.setattr(subprocess, "call", call)
    monkeypatch.setattr(sys, "argv", ["benchmark.py"])
    assert benchmark.main() == code
    assert names == [
        *("start", "grid", "tuned-grid", "step", "overhead"),
        *("scale", "data", "large-set", "early-stopping"),
    ]
    assert capsys.readouterr().out.startswith("gpu is left out: no GPU was found.")


@pytest.mark.parametrize("name", benchmark.BENCHMARKS)
def test_part_help_shows_its_flags(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmark.py", name, "--help"])
    with pytest.raises(SystemExit):
        benchmark.main()
    output = capsys.readouterr().out
    assert "--out" in output
    assert "results/benchmark" in output


def test_wrong_flag_is_reported_without_traceback(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "early-stopping", "--results", str(tmp_path)])
    assert benchmark.main() == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path} isn't a folder of results")


# the grid


def baseline_run(seconds: float, test_accuracy: float) -> grid.BaselineRun:
    """Return a run with one configuration trained in full and one stopped early."""
    completed = result(Configuration("w", 8, "none", 1e-4), test_accuracy=test_accuracy)
    stopped = completed._replace(epochs=1, val_accuracy=0.7, test_accuracy=None)
    cost = process_tree.ProcessCost(0.0, seconds=seconds)
    return grid.BaselineRun(folder=Path(), cost=cost, rows=[completed, stopped])


def result(configuration: Configuration, **values: Any) -> ConfigurationResult:
    """Return the result of 6 epochs on 36 training, 18 validation and 36 test images."""
    return ConfigurationResult(
        configuration,
        epochs=6,
        train_images=36,
        val_images=18,
        test_images=36,
        val_accuracy=0.8,
        **{"test_accuracy": 0.8, "val_losses": None, "test_correct": None, **values},
    )


def test_grid_targets_use_medians_and_one_standard_error():
    runs = {
        "ours": [baseline_run(50, 0.84), baseline_run(60, 0.84), baseline_run(500, 0.84)],
        "ours-full": [baseline_run(130, 0.9)],
        "sequential": [baseline_run(600, 0.9)],
        "ray-asha": [baseline_run(150, 0.9)],
    }
    *speeds, accuracy = grid.grid_targets(runs)
    assert [target.figure for target in speeds] == pytest.approx([600 / 130, 10, 2.5])
    assert [target.is_met for target in speeds] == [True, True, False]
    assert not accuracy.is_met, "0.06 is more than sqrt(0.09 / 36)"
    assert grid.summarise_runs("ours", runs["ours"])["epochs trained"] == 7
    assert grid.grid_targets({"ours": runs["ours"]}) == []


def test_failed_baseline_leaves_the_others_results():
    runs = {"ours": [baseline_run(50, 0.9)], "sequential": [], "ray-asha": [baseline_run(200, 0.9)]}
    targets = grid.grid_targets(runs)
    assert [(target.figure, target.is_met) for target in targets] == [(None, False), (4.0, True)]
    assert grid.summarise_runs("sequential", []) == {"contender": "sequential"}


def test_named_weights_become_a_file(tmp_path):
    part = grid.GridBenchmark(model="resnext_tiny", weights=("TEXTURES_V1",), images_per_class=5)
    (tmp_path / "source").mkdir()
    (file,) = part.make_task(tmp_path / "source", tmp_path).weights
    assert "layer1.0.conv1.weight" in torch.load(file, weights_only=True)
    part = dataclasses.replace(part, weights=("TEXTURES_V3",))
    with pytest.raises(UserError, match=r"`weights` is 'TEXTURES_V3'.*It may also be a file"):
        part.make_task(tmp_path / "source", tmp_path)


# the tuned grid


def test_every_recipe_is_tuned_by_all_contenders(task):
    task = dataclasses.replace(task, learning_rates=(1e-4, 3e-4), head_rate_factor=10.0)
    experiment = bioimg_grid.build_experiment(task, early_stopping=True)
    assert experiment.tune == ("learning_rate",)
    rates = {(trial.freeze, trial.learning_rate) for trial in experiment.trials()}
    assert rates == {(c.freeze, c.learning_rate) for c in task.configurations()}
    assert len(rates) == 4


def test_head_of_the_loop_learns_at_a_multiple_of_the_rate(task):
    def train_head(factor: float, learning_rate: float) -> dict[str, Any]:
        configuration = Configuration(task.weights[0], 4, "features", learning_rate)
        setup = sequential_setup(32)
        of_factor = dataclasses.replace(task, head_rate_factor=factor)
        *_, last_row = pytorch_loop.train_configuration(of_factor, configuration, setup)
        return last_row

    assert train_head(8.0, 0.001) == train_head(1.0, 0.008)
    assert train_head(8.0, 0.001) != train_head(1.0, 0.001)


def test_results_of_images_are_in_the_order_of_image_folder():
    rows = [
        ("test", "A-b/1", 1, 1, [0.0, 1.0]),
        ("test", "A/1", 0, 1, [0.0, 1.0]),
        ("val", "A-b/2", 1, 1, [0.5, 0.5]),
        ("val", "A/2", 0, 0, [1.0, 0.0]),
        ("val", "A/1", 0, 1, [0.0, 1.0]),
    ]
    names = ["subset", "image", "label", "prediction", "probabilities"]
    results = bioimg_grid.image_results(pd.DataFrame(rows, columns=names))
    assert results["test_accuracy"] == 0.5
    assert results["test_correct"] == [False, True]
    assert results["val_losses"] == pytest.approx([-np.log(1e-30), 0, np.log(2)])


def tuned_result(
    freeze: str, rate: float, val_loss: float, right: int, epochs: int = 6
) -> ConfigurationResult:
    """Return the result of a rate, with 18 validation losses around their mean.

    right: how many of 36 test images are recognised.
    """
    losses = val_loss + np.linspace(-0.1, 0.1, 18) * rate
    return result(
        Configuration("w", 8, freeze, rate),
        val_losses=losses.tolist(),
        test_correct=[number < right for number in range(36)],
    )._replace(epochs=epochs)


FULL_RUN = [
    tuned_result("none", 1, 0.5, right=30),
    tuned_result("none", 2, 0.3, right=32),
    tuned_result("features", 1, 0.7, right=20),
    tuned_result("features", 2, 0.9, right=18),
]


def met_targets(ours: list[ConfigurationResult]) -> list[bool]:
    return [target.is_met for target in recipe_agreement.recipe_targets(ours, FULL_RUN)]


def test_stopped_rates_that_lose_change_no_conclusion():
    stopped = FULL_RUN[0]._replace(epochs=2, test_correct=None, val_losses=None)
    assert met_targets([stopped, *FULL_RUN[1:]]) == [True, True, True]


def test_wrong_rate_is_noticed_by_its_loss_in_the_full_run():
    stopped = FULL_RUN[1]._replace(test_correct=None)
    assert met_targets([FULL_RUN[0], stopped, *FULL_RUN[2:]]) == [True, False, True]


def test_recipes_in_the_opposite_order_are_noticed():
    frozen_wins = tuned_result("features", 1, 0.1, right=31)
    trained_loses = tuned_result("none", 2, 0.3, right=20)
    assert met_targets([frozen_wins, trained_loses]) == [True, True, False]
    assert met_targets([frozen_wins._replace(test_correct=[False] * 36), trained_loses]) == [
        *(False, True, True)
    ]


def test_time_of_lanes_is_divided_without_a_rest():
    cost = process_tree.ProcessCost(started_at=1000.0, seconds=50.0)
    trials = pd.DataFrame(
        {
            "weights": ["w", "w", "w"],
            "freeze": ["features", "features", "none"],
            "features_seconds": [6.0, 6.0, None],
            "train_seconds": [1.0, 2.0, 20.0],
            # a lane takes the first trial after 10 s, another one the second after 12 s
            "wait_seconds": [4.0, 4.0, 2.0],
            "ended_at": pd.to_datetime([1015, 1018, 1040], unit="s", utc=True),
        }
    )
    shares = tuned_grid.divide_time(cost, trials)
    assert sum(shares.values()) == pytest.approx(1)
    assert {name: 100 * share for name, share in shares.items()} == pytest.approx(
        {
            "start": 20,
            "features": 6,
            "training heads": 3,
            "training models": 20,
            "models, states and tests": 4,
            "idle lanes": 60 - 33,
            "report": 20,
        }
    )


def test_limit_counts_trained_models_only():
    trained = tuned_result("none", 1, 0.5, right=30, epochs=2)
    stopped = trained._replace(epochs=1, test_correct=None)
    frozen = tuned_result("features", 1, 0.5, right=30)
    images = 2 * (3 * 36 + 18) + 36 + 3 * 36 + 18
    assert tuned_grid.least_flops([trained, stopped, frozen], 10.0) == 10 * images


def test_operations_of_a_forward_pass_grow_with_the_images():
    # ResNeXt-50's paper counts 4.2e9 multiplications and additions at 224 px (arXiv:1611.05431)
    assert tuned_grid.forward_flops("resnext50_32x4d", 224) == pytest.approx(2 * 4.2e9, rel=0.02)


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore")
def test_tuned_grid_compares_this_project_with_the_loop(tmp_path):
    part = tuned_grid.TunedGridBenchmark(
        model="resnext_tiny",
        weights=("TEXTURES_V2",),
        batch_sizes=(8,),
        images_per_class=10,
        image_size=32,
        epochs=2,
        out=tmp_path,
    )
    outcome = part.run()
    assert [row["contender"] for row in outcome.rows] == ["ours", "sequential"]
    assert [row["epochs trained"] for row in outcome.rows] == [12, 12]
    speed, *recipes = outcome.targets
    assert speed.figure is not None
    assert len(recipes) == 3
    assert len(pd.read_parquet(tmp_path / "tuned-grid-recipes.parquet")) == 2
    shares = pd.read_parquet(tmp_path / "tuned-grid-time.parquet").filter(like=" ")
    assert (shares >= 0).all(axis=None)


# early stopping


def curve(
    seed: int, right: Sequence[int], *, freeze: str = "none", pace: float = 1.0
) -> RecordedCurve:
    """Return a curve of a trial that recognises the first so many of 100 validation images.

    pace: seconds an epoch.
    """
    epochs = []
    for number, count in enumerate(right, start=1):
        correct = np.packbits(np.arange(100) < count).tobytes()
        loss = 1 - count / 100
        row = {"epoch": number, "val_score": count / 100, "val_loss": loss, "val_correct": correct}
        epochs.append({**row, "seconds": pace})
    return RecordedCurve(TrialConfig(seed=seed, epochs=len(right), freeze=freeze), epochs)


def replay(curves: Sequence[RecordedCurve], rule: EarlyStopping, lanes: int) -> list[int]:
    """Return the epochs that run with a guard."""
    images = ValidationImages(np.full(100, 0.01), None)
    guarded = StoppingRule(rule, [curve.trial for curve in curves], [], lambda trial: images)
    return replay_trials(curves, guarded.decide, lanes)


def replay_plain(curves: Sequence[RecordedCurve], rule: EarlyStopping, lanes: int) -> list[int]:
    """Return the epochs that run without a guard."""
    return replay_trials(curves, make_plain_rule(rule), lanes)


def test_replay_stops_trials_in_order_of_arrival():
    good, better = curve(0, [50, 60, 70, 80]), curve(1, [40, 50, 60, 90])
    third = curve(2, [40, 50, 60, 90])
    rule = EarlyStopping(grace_period=2, reduction_factor=2)
    # the better one is behind at epoch 2; without competitors, the first one is never stopped
    for replayed in (replay, replay_plain):
        assert replayed([good, better], rule, lanes=1) == [4, 2]
        assert replayed([better, good], rule, lanes=1) == [4, 4]
        assert replayed([good, better, third], rule, lanes=3) == [4, 2, 2]


def test_only_plain_asha_stops_what_may_be_behind_by_chance():
    curves = [curve(0, [50, 60]), curve(1, [48, 90])]
    assert replay_plain(curves, EarlyStopping(grace_period=1), lanes=1) == [2, 1]
    assert replay(curves, EarlyStopping(grace_period=1), lanes=1) == [2, 2]


def test_replay_respects_recorded_pace_and_free_lanes():
    slow, fast = curve(0, [40, 40, 40], pace=10), curve(1, [60, 60, 60])
    others = [curve(seed, [60, 60, 60]) for seed in (2, 3)]
    rule = EarlyStopping(grace_period=1, reduction_factor=2)
    assert replay([slow, fast], rule, lanes=2) == [1, 3]
    assert replay([slow, fast, *others], rule, lanes=2) == [1, 3, 3, 3]


def test_frozen_trials_are_exempt_in_replays():
    frozen, trained = curve(0, [30, 30], freeze="features"), curve(1, [90, 90])
    assert replay([trained, frozen], EarlyStopping(grace_period=1), lanes=1) == [2, 2]
    assert replay_plain([trained, frozen], EarlyStopping(grace_period=1), lanes=1) == [2, 2]


def test_tuned_values_stop_only_those_of_their_own_recipe():
    def with_rate(curve: RecordedCurve, rate: float) -> RecordedCurve:
        trial = dataclasses.replace(curve.trial, learning_rate=rate)
        return RecordedCurve(trial, curve.epochs)

    good, bad = (with_rate(curve(0, [right] * 4), right) for right in (90, 60))
    other_good, other_bad = (with_rate(curve(1, [right] * 4), right) for right in (50, 10))
    curves = [good, other_good, bad, other_bad]
    rule = EarlyStopping(grace_period=2).within_recipes(["learning_rate"])
    epochs_run = replay(curves, rule, lanes=1)
    assert epochs_run == [4, 4, 2, 2]
    assert best_values_kept(curves, epochs_run, ["learning_rate"]) == 1
    assert best_values_kept(curves, [4, 2, 2, 4], ["learning_rate"]) == 0.5


def test_replay_is_scored_by_what_is_left():
    good, best = curve(0, [50, 80]), curve(1, [40, 90], pace=3)
    frozen = curve(2, [20, 30], freeze="features")
    left = score_replay([good, best, frozen], [2, 1, 2])
    assert left == {
        "headline": good.trial.key,
        "winner completes": 0,
        "regret": pytest.approx(0.1),
        "completed": pytest.approx(2 / 3),
        "epochs saved": pytest.approx(1 / 6),
        "time saved": pytest.approx(3 / 10),
    }
    whole = score_replay([good, best, frozen], [2, 2, 2])
    assert (whole["winner completes"], whole["regret"]) == (1, 0)
    summary = summarise_replays([left, whole, whole, whole])
    assert (summary["headlines"], summary["same headline"]) == (2, 0.75)
    assert summary["regret"] == pytest.approx(0.025)


def test_curves_are_read_from_complete_results_only(tmp_path):
    folder = tmp_path / "grid"
    experiment = grid_experiment(seed=(0, 1), epochs=2, split="stratified")
    run_experiment(experiment, folder, local=True)
    curves = read_curves(folder)
    assert {curve.trial for curve in curves} == set(experiment.trials())
    assert {len(curve.epochs) for curve in curves} == {2}
    images = read_validation_images(folder)(curves[0].trial)
    correct = np.unpackbits(
        np.frombuffer(curves[0].epochs[0]["val_correct"], np.uint8), count=len(images.weights)
    )
    assert correct @ images.weights == pytest.approx(curves[0].epochs[0]["val_score"])
    assert images.groups is not None
    part = EarlyStoppingBenchmark(results=folder, orders=3)
    names = [row[""] for row in part.run().rows]
    assert names == ["no stopping", "plain ASHA", "guarded ASHA"]

    stopped = read_results(folder).trials.assign(status="stopped")
    stopped.to_parquet(folder / "trials.parquet")
    with pytest.raises(UserError, match=r"2 of 2 aren't. Run the experiment"):
        read_curves(folder)


# scale, overhead and step


def test_tenths_show_slower_trials_and_growing_memory():
    ends = np.cumsum(np.repeat([1.0, 2.0], [100, 100]))
    cost = process_tree.ProcessCost(
        0.0, sample_times=[0.0, 300.0], memory=[2**30, 4 * 2**30], own_memory=[2**30, 2**30]
    )
    trials = pd.DataFrame({"started": ends - 0.5, "ended": ends})
    rows = scale.tenth_rows(lanes.GridRun(cost, trials))
    assert [row["seconds per trial"] for row in rows] == pytest.approx([1.0] * 5 + [2.0] * 5)
    assert [row["trials"] for row in rows] == list(range(20, 201, 20))
    assert rows[-1]["GiB"] == pytest.approx(4)
    assert rows[4]["GiB"] == pytest.approx(2)
    assert {row["of the program itself"] for row in rows} == {1.0}


def test_overhead_row_has_waits_of_one_lane_and_whole_program_memory():
    cost = process_tree.ProcessCost(100.0, memory=[2**30, 3 * 2**30])
    trials = pd.DataFrame({"started": [110.0, 112.5], "ended": [112.0, 113.0]})
    ran = lanes.GridRun(cost, trials)
    assert overhead.overhead_row("lane", 1, ran.idle_seconds, ran) == {
        "": "lane",
        "workers": 1,
        "trials": 2,
        "median s": 0.5,
        "longest s": 0.5,
        "first batch": 10.0,
        "first trial": 12.0,
        "peak GiB": 3.0,
    }
    assert "median s" not in overhead.overhead_row("two lanes", 1, None, ran)
    assert "peak GiB" not in overhead.overhead_row("a TorchTrainer for each trial", 1, [7.0])


@pytest.mark.nightly
def test_step_measures_every_precision_and_layout(monkeypatch):
    monkeypatch.setattr(step, "MATRIX_SIDES", (512,))
    monkeypatch.setattr(step, "HEAD_IMAGES", 60)
    monkeypatch.setattr(step, "HEAD_TRAIN", 41)
    monkeypatch.setattr(step, "HEAD_EPOCHS", 2)
    part = step.StepBenchmark(model="resnext_tiny", image_size=32, batch_size=4, steps=1, repeats=1)
    outcome = part.run()
    rows = pd.DataFrame(outcome.rows)
    assert len(rows.groupby(["work", "precision", "layout"])) == len(rows) == 8
    assert (rows["images/s"] > 0).all()
    cost = rows.groupby("work")["GFLOP per image"].first()
    assert cost["training"] == pytest.approx(3 * cost["extraction"])
    assert ((rows["share of peak"] > 0) & (rows["share of peak"] < 1)).all()
    assert [target.limit for target in outcome.targets] == [0.55, 0.7, 5.0]
    head = outcome.targets[2]
    assert head.what == "2 epochs of a head, 41 images in 8 views, batches of 4"
    assert head.figure is not None
    assert head.figure > 0


@pytest.mark.parametrize(("device", "limits"), [("cpu", [0.55, 0.7]), ("cuda", [])])
def test_only_a_cpu_is_held_against_its_matrix_peak(device, limits):
    row = {"precision": "bfloat16", "layout": "channels_last", "share of peak": 0.6}
    rows = [{**row, "work": work} for work in ("training", "extraction")]
    targets = step.share_targets(rows, torch.device(device))
    assert [target.limit for target in targets] == limits


def test_elapsed_time_includes_what_the_gpu_still_computes(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: time.sleep(0.05))
    assert elapsed_seconds(lambda: None) >= 0.05


# the start


def cost_of_a_demo() -> process_tree.ProcessCost:
    """Return the cost of a program whose first epoch came after 12 s and its last after 30."""
    cost = process_tree.ProcessCost(started_at=100.0, seconds=35.0)
    lines = {
        101.0: "phantom: 600 images\n",
        112.0: "[0/12] weights=A: epoch 1/10 train loss 1.6\n",
        120.0: "[1/12] weights=A: epoch 10/10 train loss 0.6\n",
        130.0: "[1/12] weights=B: epoch 10/10 train loss 0.6\n",
        134.0: "Best: weights A\n",
    }
    cost.output = list(lines.items())
    cost.sample_times = [100.5, 105.0, 111.0, 125.0, 131.0, 134.0]
    cost.cpu_so_far = [0.5, 8.0, 20.0, 45.0, 50.0, 54.0]
    cost.memory = [gibibytes * 2**30 for gibibytes in (0, 1, 3, 4, 2, 1)]
    return cost


def test_phases_of_the_start_add_up_to_the_run():
    phases = pd.DataFrame(start.measure_phases(cost_of_a_demo())).set_index("phase")
    assert phases["seconds"].tolist() == [1, 11, 18, 5]
    assert phases["CPU seconds"].tolist() == [0.5, 19.5, 25, 9]
    assert phases["peak GiB"].tolist() == [0, 3, 4, 4]


def test_phase_without_a_sample_has_the_memory_before_it():
    cost = cost_of_a_demo()
    cost.sample_times, cost.cpu_so_far, cost.memory = [100.5], [0.5], [2**30]
    phases = pd.DataFrame(start.measure_phases(cost))
    assert phases["CPU seconds"].tolist() == [0.5, 0, 0, 0]
    assert phases["peak GiB"].tolist() == [1, 1, 1, 1]


@pytest.mark.nightly
@pytest.mark.usefixtures("no_ray")
def test_ray_alone_starts_workers_that_can_train():
    cost = start.measure_ray_alone()
    assert cost["seconds"] > 0
    assert cost["CPU seconds"] > 1, "two workers import torch"
    assert cost["peak GiB"] > 0.1


@pytest.mark.parametrize(
    ("slower", "missed"),
    [
        ({}, set()),
        ({"--local": 9}, {"first epoch, --local"}),
        ({"command": 18}, {"first epoch, command"}),
        ({"command": 40}, {"first epoch, command", "demo with its report"}),
    ],
)
def test_start_is_held_against_its_limits_and_ray_alone(slower, missed):
    seconds = {"command": 16, "API": 16, "--local": 7, **slower}
    phases = [
        {"way": "Ray alone", "phase": "command to ready workers", "seconds": 12, "peak GiB": 2}
    ]
    for way, first_epoch in seconds.items():
        durations = (1, first_epoch - 1, 18, 5)
        for name, duration in zip(start.PHASES, durations, strict=True):
            phases.append({"way": way, "phase": name, "seconds": duration, "peak GiB": 3.5})
    targets = start.start_targets(pd.DataFrame(phases).set_index(["way", "phase"]))
    assert {target.what for target in targets if not target.is_met} == missed
