"""Recipes at their own best learning rates: what runs, what is chosen, and what isn't."""

import dataclasses
import io
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

from bioimg.experiment import EarlyStopping, Experiment
from bioimg.prediction.kept_trial import select_trial_key
from bioimg.report.analysis import Analysis
from bioimg.results.chosen_values import chosen_results
from bioimg.results.result_store import Results, read_results
from support.consoles import ActingConsole, Interrupted, InterruptingConsole
from support.experiments import LENIENT_ALPHA, grid_experiment, run_experiment
from support.processes import WORKER, signal_actor
from support.results import assert_no_epoch_repeated, assert_same_results

RATES = (1e-9, 1e-3, 3e-3)
"""With the first one nothing is learnt."""
TEST_LABELS = np.arange(20) % 2


def write_images(path: Path, test_labels: np.ndarray = TEST_LABELS) -> Path:
    """Write noise around a colour for each of two classes, as a MedMNIST file."""
    content = {}
    for number, (subset, count) in enumerate({"train": 40, "val": 20, "test": 20}.items()):
        generator = np.random.default_rng(number)
        labels = np.arange(count) % 2
        noise = generator.normal(0, 60, (count, 16, 16, 3))
        pixels = noise + np.where(labels, 100, 150)[:, None, None, None]
        content[f"{subset}_images"] = pixels.clip(0, 255).astype(np.uint8)
        content[f"{subset}_labels"] = labels[:, None].astype(np.uint8)
    content["test_labels"] = test_labels[:, None].astype(np.uint8)
    np.savez(path, **content)
    return path


def tuned_experiment(data: Path, rule: EarlyStopping | None = None, **fields) -> Experiment:
    """Return a grid whose recipes have their own learning rates; `fields` as grid_experiment."""
    grid = {
        "data": str(data),
        "model": "toy",
        "image_size": 16,
        "batch_size": 8,
        "learning_rate": RATES,
        "freeze": ("none", "features"),
    }
    experiment = grid_experiment(rule, **{**grid, **fields})
    return dataclasses.replace(experiment, tune=("learning_rate",))


def run(folder: Path, experiment: Experiment, console: io.StringIO | None = None, **options):
    return run_experiment(experiment, folder, console, **{"local": True, **options})


def chosen_rates(results: Results) -> dict[tuple, float]:
    """Return the chosen learning rate by freeze, fold and seed."""
    trials = chosen_results(results).trials
    return trials.set_index(["freeze", "fold", "seed"])["learning_rate"].to_dict()


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A small set of images with its own split."""
    return write_images(tmp_path_factory.mktemp("images") / "images.npz")


@pytest.fixture(scope="module")
def seeded(data) -> Experiment:
    """Recipes with three seeds."""
    return tuned_experiment(data, seed=(0, 1, 2))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, seeded) -> Path:
    """Where they were run in one go."""
    path = tmp_path_factory.mktemp("tuned") / "out"
    run(path, seeded)
    return path


@pytest.fixture(scope="module")
def whole(folder) -> Results:
    return read_results(folder)


@pytest.fixture
def out(folder, tmp_path) -> Path:
    """A copy of that folder, to continue with."""
    return Path(shutil.copytree(folder, tmp_path / "out"))


def test_all_values_run_with_the_first_seed_and_the_chosen_one_with_the_others(whole):
    assert whole.trials.groupby(["freeze", "seed"]).size().unstack().values.tolist() == [
        [3, 1, 1],
        [3, 1, 1],
    ]
    first = whole.trials[whole.trials["seed"].eq(0)]
    best = first.loc[first.groupby("freeze")["best_val_loss"].idxmin()]
    for row in best.to_dict("records"):
        for seed in (0, 1, 2):
            assert chosen_rates(whole)[row["freeze"], 0, seed] == row["learning_rate"]


def test_recipes_are_compared_at_their_chosen_values_only(whole):
    analysis = Analysis(whole)
    assert analysis.varying_fields == ["freeze"]
    assert len(analysis.first_trials) == 2
    assert len(analysis.trials) == 6
    assert len(analysis.best_pairs) == 1
    assert analysis.best_pairs["p_holm"].equals(analysis.best_pairs["p"])
    assert select_trial_key(whole, None) in set(analysis.best.runs["key"])


def test_a_run_that_is_there_trains_nothing(out, seeded, whole):
    assert_same_results(run(out, seeded), whole)


@pytest.mark.parametrize("times", [2, 9, 20])
def test_an_interruption_at_any_moment_leads_to_the_same_table(tmp_path, seeded, whole, times):
    with pytest.raises(Interrupted):
        run(tmp_path / "out", seeded, InterruptingConsole("epoch ", times))
    assert_same_results(run(tmp_path / "out", seeded), whole)


def test_a_value_that_is_added_runs_where_it_is_missing_and_can_change_the_choice(
    out, seeded, whole
):
    axes = {**seeded.axes, "learning_rate": (*RATES, 1e-2)}
    results = run(out, dataclasses.replace(seeded, axes=axes))
    assert set(whole.trials["key"]) <= set(results.trials["key"])
    added = results.trials[~results.trials["key"].isin(whole.trials["key"])]
    assert set(added["learning_rate"]) == {1e-2}
    rates = chosen_rates(results)
    for freeze in ("none", "features"):
        is_recipe = added["freeze"].eq(freeze)
        is_chosen = rates[freeze, 0, 0] == 1e-2
        assert added.loc[is_recipe, "seed"].tolist() == ([0, 1, 2] if is_chosen else [0])
    assert 1e-2 in rates.values(), "no choice changes, so this test shows nothing"


def test_each_fold_chooses_on_its_own_validation_images(data, tmp_path):
    folds = {"split": "stratified", "folds": 3, "fold": (0, 1, 2), "freeze": ("features",)}
    results = run(tmp_path / "out", tuned_experiment(data, **folds))
    for fold, rows in results.trials.groupby("fold"):
        best = rows.loc[rows["best_val_loss"].idxmin(), "learning_rate"]
        assert chosen_rates(results)["features", fold, 0] == best
    assert len(Analysis(results).first_trials) == 1
    assert len(Analysis(results).best.runs) == 3


def test_stopping_ends_values_but_no_recipe(data, tmp_path):
    rule = EarlyStopping(grace_period=1, alpha=LENIENT_ALPHA, spare_frozen=False)
    asked = tuned_experiment(
        data, rule, batch_size=(8, 16), epochs=8, learning_rate=(1e-9, 2e-9, 3e-2)
    )
    results = run(tmp_path / "out", asked)
    assert results.trials["status"].eq("stopped").any()
    chosen = chosen_results(results).trials
    assert chosen["status"].tolist() == ["completed"] * 4
    stopped = results.trials[results.trials["status"].eq("stopped")]
    winners = results.trials.set_index("key")
    for row in stopped.to_dict("records"):
        rival = winners.loc[row["lost_to"]]
        assert (rival["freeze"], rival["batch_size"]) == (row["freeze"], row["batch_size"])


def test_finishing_stopped_values_gives_the_table_without_stopping(data, tmp_path):
    rule = EarlyStopping(grace_period=1, alpha=LENIENT_ALPHA, spare_frozen=False)
    stopping = tuned_experiment(data, rule, seed=(0, 1), epochs=4)
    run(tmp_path / "out", stopping)
    finished = run(tmp_path / "out", stopping, finish=())
    unstopped = run(tmp_path / "whole", dataclasses.replace(stopping, early_stopping=None))
    wanted = finished.trials["key"].isin(unstopped.trials["key"])
    assert chosen_rates(finished) == chosen_rates(unstopped)
    assert set(unstopped.trials["key"]) <= set(finished.trials.loc[wanted, "key"])
    assert finished.trials["status"].eq("completed").all()


def test_test_labels_have_no_part_in_the_choice(tmp_path):
    shuffled = np.random.default_rng(0).permutation(TEST_LABELS)
    results = []
    for name, test_labels in {"true": TEST_LABELS, "shuffled": shuffled}.items():
        data = write_images(tmp_path / f"{name}.npz", test_labels)
        experiment = tuned_experiment(data, seed=(0, 1))
        results.append(run(tmp_path / name, experiment))
    true, other = results
    assert not true.trials["test_accuracy"].equals(other.trials["test_accuracy"])
    assert chosen_rates(true) == chosen_rates(other)
    assert true.trials["key"].tolist() == other.trials["key"].tolist()
    assert Analysis(true).best.key == Analysis(other).best.key


def test_a_recipe_whose_values_all_fail_stays_in_the_table(data, tmp_path):
    experiment = tuned_experiment(
        data, learning_rate=(1e20, 1e25), freeze=("none", "features"), seed=(0, 1)
    )
    results = run(tmp_path / "out", experiment, exit_code=1)
    failed = results.trials["status"].eq("failed")
    assert failed.any(), "nothing failed, so this test shows nothing"
    assert set(chosen_results(results).trials["freeze"]) == {"none", "features"}
    for freeze, rows in results.trials.groupby("freeze"):
        if rows["status"].eq("failed").all():
            assert set(rows["seed"]) == {0}, freeze


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore")
def test_lanes_give_the_table_of_local(shared_ray, data, tmp_path):
    rule = EarlyStopping(grace_period=1, alpha=LENIENT_ALPHA)
    experiment = tuned_experiment(data, rule, seed=(0, 1), epochs=2)
    on_lanes = run(tmp_path / "lanes", experiment, local=False, lanes=1)
    assert on_lanes.trials["seed"].value_counts()[1] == 2
    assert_same_results(on_lanes, run(tmp_path / "local", experiment))


@pytest.mark.nightly
@pytest.mark.ray
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("moment", ["epoch 2/3", "seed=1: epoch 2/3"])
def test_a_killed_worker_changes_no_choice(shared_ray, data, tmp_path, moment):
    experiment = tuned_experiment(data, seed=(0, 1))
    kill = signal_actor(WORKER, signal.SIGKILL)
    console = ActingConsole(moment, tmp_path / "disturbed", kill)
    disturbed = run(tmp_path / "disturbed", experiment, console, local=False, lanes=1)
    assert_no_epoch_repeated(console.before, disturbed.epochs)
    assert_same_results(disturbed, run(tmp_path / "local", experiment))
