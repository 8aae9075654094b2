"""The warm-up, and trials that train their head before all layers (LP-FT)."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bioimg.config import TrialConfig
from bioimg.experiment import StopReason
from bioimg.results.epoch_summary import EpochMetrics
from bioimg.results.result_store import ResultStore
from bioimg.training import checkpoint_files, checkpoints
from bioimg.training.loop import train
from bioimg.training.optimisation import scheduled_learning_rate
from bioimg.training.trial_recorder import TrialContext
from bioimg.training.trial_runner import run_trial
from bioimg.training.trial_trainer import TrialTrainer
from support import toys
from support.experiments import stop_reason

HEAD_FIRST = toys.trial(freeze="head-first", epochs=5, model="resnext_tiny")


def learning_rates(steps: int = 4, **fields: Any) -> list[float]:
    """Return the learning rate of each step of a trial whose learning rate is 1."""
    trial = toys.trial(learning_rate=1.0, **fields)
    return [
        scheduled_learning_rate(trial, epoch, step / steps)
        for epoch in range(1, trial.epochs + 1)
        for step in range(1, steps + 1)
    ]


def train_curves(trainer: TrialTrainer, epochs: int | None = None) -> list[dict[str, Any]]:
    """Train some epochs, or all; return their results without the seconds."""
    curves = []
    for epoch in train(trainer):
        curves.append(dataclasses.asdict(dataclasses.replace(epoch, seconds=0)))
        if epoch.epoch == epochs:
            break
    return curves


def model_tensors(trainer: TrialTrainer) -> dict[str, torch.Tensor]:
    state = trainer.classifier.model.state_dict()
    return {name: tensor.clone() for name, tensor in state.items()}


def changed_parts(before: dict[str, torch.Tensor], trainer: TrialTrainer) -> set[str]:
    """Return the parts of the model with a tensor that has changed."""
    after = model_tensors(trainer)
    return {name.split(".")[0] for name in after if not torch.equal(before[name], after[name])}


def record_trial(
    folder: Path, trial: TrialConfig, should_stop: Callable[[EpochMetrics], StopReason | None]
) -> tuple[ResultStore, dict[str, Any]]:
    """Run a trial; return the store and its row."""
    store = ResultStore(folder)
    context = TrialContext(experiment_name="toy", store=store, device=torch.device("cpu"))
    run_trial(trial, toys.dataset(trial), context, should_stop)
    return store, store.tables.trial_rows("trials", trial.key)[0]


def never(epoch: EpochMetrics) -> None:
    """Let each epoch pass."""


# the course of the learning rate


def test_learning_rate_is_constant_or_half_a_cosine():
    assert learning_rates(steps=1, epochs=9) == [1.0] * 9
    cosine = learning_rates(steps=2, epochs=4, schedule="cosine")
    assert cosine[::2] == cosine[1::2], "it changes from epoch to epoch"
    assert cosine[::2] == pytest.approx([1.0, 0.854, 0.5, 0.146], abs=1e-3)


def test_warmup_rises_by_the_same_amount_at_each_step_and_the_schedule_follows():
    rising = [step / 8 for step in range(1, 9)]
    assert learning_rates(epochs=4, warmup=2) == rising + [1.0] * 8
    cosine = learning_rates(epochs=4, warmup=2, schedule="cosine")
    assert cosine[:8] == rising
    assert cosine[8::4] == learning_rates(steps=1, epochs=2, schedule="cosine")


def test_head_and_model_have_a_rate_and_schedule_each_and_only_the_model_a_warmup():
    fields = {"epochs": 10, "schedule": "cosine", "head_rate_factor": 10.0}
    rates = learning_rates(freeze="head-first", warmup=3, **fields)
    head, model = rates[:8], rates[8:]
    assert head == [10 * rate for rate in learning_rates(epochs=2, schedule="cosine")]
    assert model == learning_rates(epochs=8, schedule="cosine", warmup=3)


def test_optimizer_makes_each_step_at_the_scheduled_rate():
    fields = {"epochs": 2, "warmup": 1}
    trainer = toys.run(toys.trial(learning_rate=1.0, **fields))
    rates = []
    trainer.optimizer.register_step_pre_hook(
        lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"])
    )
    train_curves(trainer)
    assert rates == learning_rates(steps=len(rates) // 2, **fields)


def test_longer_trial_continues_a_warmup_of_the_same_length():
    trial = toys.trial(epochs=6, warmup=3)
    keys = [toys.trial(epochs=epochs, warmup=3).key for epochs in (5, 4)]
    assert list(checkpoint_files.shorter_trial_keys(trial)) == keys


# the head first


def test_head_is_trained_as_on_a_frozen_backbone_and_then_all_layers_are():
    trainer = toys.run(HEAD_FIRST)
    before = model_tensors(trainer)
    head_only = toys.run(dataclasses.replace(HEAD_FIRST, freeze="features"))
    assert train_curves(trainer, 2) == train_curves(head_only, 2)
    assert changed_parts(before, trainer) == {"fc"}
    before = model_tensors(trainer)
    assert len(train_curves(trainer)) == 3
    assert changed_parts(before, trainer) == {name.split(".")[0] for name in before}


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize("interrupted_after", [1, 2, 3])
def test_trial_resumed_around_the_switch_equals_uninterrupted_one(interrupted_after, schedule):
    trial = dataclasses.replace(HEAD_FIRST, schedule=schedule, warmup=1)
    expected = toys.run(trial)
    curves = train_curves(expected)
    interrupted = toys.run(trial)
    train_curves(interrupted, interrupted_after)
    resumed = toys.run(trial)
    resumed.load_state_dict(interrupted.state_dict())
    assert train_curves(resumed) == curves[interrupted_after:]
    assert resumed.best_weights.keys() == expected.best_weights.keys()
    for name, tensor in expected.best_weights.items():
        assert torch.equal(resumed.best_weights[name], tensor)


@pytest.mark.parametrize("resumed", [False, True])
def test_best_epoch_of_the_head_is_restored_with_its_backbone(resumed):
    # so large a rate that training all layers only does harm
    trial = dataclasses.replace(HEAD_FIRST, learning_rate=1.0)
    trainer = toys.run(trial)
    before = model_tensors(trainer)
    train_curves(trainer, 4)
    if resumed:
        state = trainer.state_dict()
        trainer = toys.run(trial)
        trainer.load_state_dict(state)
    train_curves(trainer)
    assert trainer.best_epoch <= trial.head_epochs, "the test needs a best epoch of the head"
    trainer.restore_best()
    assert changed_parts(before, trainer) == {"fc"}
    best_loss = trainer.history[trainer.best_epoch - 1].val_loss
    assert trainer.evaluate(trainer.split.val).loss == pytest.approx(best_loss, rel=1e-5)


def test_patience_counts_from_the_first_epoch_that_trains_all_layers():
    trial = toys.trial(freeze="head-first", epochs=20, patience=1, learning_rate=1e-12)
    trainer = toys.run(trial)
    assert len(train_curves(trainer)) == trial.head_epochs + 1


@pytest.mark.parametrize(("metric", "last"), [("val_loss", 5), ("val_score", 4)])
def test_patience_is_on_the_loss_or_on_the_score(metric, last, monkeypatch):
    losses, scores = [5.0, 4.0, 3.0, 4.0, 4.0, 1.0], [0.5, 0.6, 0.6, 0.5, 0.5, 0.9]
    add_epoch = TrialTrainer.add_epoch

    def add_fixed_epoch(trainer: TrialTrainer, epoch: EpochMetrics) -> EpochMetrics:
        index = epoch.epoch - 1
        fixed = dataclasses.replace(epoch, val_loss=losses[index], val_score=scores[index])
        return add_epoch(trainer, fixed)

    monkeypatch.setattr(TrialTrainer, "add_epoch", add_fixed_epoch)
    trainer = toys.run(toys.trial(epochs=6, patience=2, patience_metric=metric))
    assert len(train_curves(trainer)) == last
    assert trainer.out_of_patience


def test_only_trials_that_train_the_head_as_long_are_continued():
    trial = toys.trial(freeze="head-first", epochs=16)
    assert list(checkpoint_files.shorter_trial_keys(trial)) == [
        toys.trial(freeze="head-first", epochs=15).key
    ]


@pytest.mark.parametrize(
    ("stopped_after", "head_epochs", "features"),
    [(1, 1, "cached"), (3, 2, "cached, then computed"), (None, 2, "cached, then computed")],
)
def test_row_says_how_long_the_head_was_trained(stopped_after, head_epochs, features, tmp_path):
    def should_stop(epoch: EpochMetrics) -> StopReason | None:
        return stop_reason(epoch.epoch) if epoch.epoch == stopped_after else None

    _, row = record_trial(tmp_path, HEAD_FIRST, should_stop)
    assert row["status"] == ("stopped" if stopped_after else "completed")
    assert (row["freeze"], row["head_epochs"], row["features"]) == (
        "head-first",
        head_epochs,
        features,
    )
    assert row["features_seconds"] > 0


def test_trial_stopped_in_its_head_phase_can_be_finished(tmp_path):
    def stop_at_first(epoch: EpochMetrics) -> StopReason | None:
        return stop_reason(1) if epoch.epoch == 1 else None

    record_trial(tmp_path / "stopped", HEAD_FIRST, stop_at_first)
    finished, _ = record_trial(tmp_path / "stopped", HEAD_FIRST, never)
    whole, _ = record_trial(tmp_path / "whole", HEAD_FIRST, never)
    for table in ("epochs", "predictions"):
        tables = []
        for store in (finished, whole):
            rows = store.tables.trial_rows(table, HEAD_FIRST.key)
            tables.append([{**row, "seconds": None} for row in rows])
        assert tables[0] == tables[1]


def test_model_on_disk_is_whole_and_predicts_as_the_table_says(tmp_path):
    store, row = record_trial(tmp_path, HEAD_FIRST, never)
    saved = checkpoints.load_best_model(store.storage, store.checkpoint_folder(HEAD_FIRST.key))
    trainer = toys.run(dataclasses.replace(HEAD_FIRST, freeze="none"))
    trainer.trained_module.load_state_dict(dict(saved.tensors))
    tested = trainer.evaluate(trainer.split.test)
    assert tested.accuracy == row["test_accuracy"]
    predictions = [
        prediction
        for prediction in store.tables.trial_rows("predictions", HEAD_FIRST.key)
        if prediction["subset"] == "test"
    ]
    probabilities = np.array([prediction["probabilities"] for prediction in predictions])
    logits = trainer.predict_logits(trainer.split.test)
    assert np.allclose(logits.softmax(1).numpy(), probabilities, atol=1e-6)
