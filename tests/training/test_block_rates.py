"""Trials in which blocks learn in ways of their own: low-rank updates, and layer decay."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bioimg.config import TrialConfig
from bioimg.results.result_store import ResultStore
from bioimg.training import checkpoints, inference
from bioimg.training.loop import train
from bioimg.training.trial_recorder import TrialContext
from bioimg.training.trial_runner import run_trial
from bioimg.training.trial_trainer import TrialTrainer
from support import toys

TRANSFORMER = "timm:vit_tiny_patch16_224"


def lora_trial(**fields: Any) -> TrialConfig:
    return toys.trial(model=TRANSFORMER, freeze="lora4", **fields)


def train_curves(trainer: TrialTrainer) -> list[dict[str, Any]]:
    """Train to the end; return the results of the epochs without the seconds."""
    return [dataclasses.asdict(dataclasses.replace(epoch, seconds=0)) for epoch in train(trainer)]


def block_rates(trainer: TrialTrainer) -> dict[str, float]:
    """Return the learning rate of each trained parameter in the last step, by its name."""
    names = {id(p): name for name, p in trainer.classifier.model.named_parameters()}
    rates = {}
    for group in trainer.optimizer.param_groups:
        rates |= {names[id(parameter)]: group["lr"] for parameter in group["params"]}
    return rates


# low-rank updates


def test_lora_trial_learns():
    epochs = train_curves(toys.run(lora_trial(epochs=6)))
    assert epochs[-1]["val_loss"] < epochs[0]["val_loss"]


def test_resumed_lora_trial_equals_uninterrupted_one():
    trial = lora_trial()
    uninterrupted = toys.run(trial)
    expected = train_curves(uninterrupted)
    interrupted = toys.run(trial)
    next(train(interrupted))
    resumed = toys.run(trial)
    resumed.load_state_dict(interrupted.state_dict())
    assert train_curves(resumed) == expected[1:]
    for name, tensor in uninterrupted.best_weights.items():
        assert torch.equal(resumed.best_weights[name], tensor)


def test_kept_model_of_a_lora_trial_is_plain_and_predicts_the_same(tmp_path: Path):
    trial = lora_trial()
    store = ResultStore(tmp_path)
    context = TrialContext(experiment_name="toy", store=store, device=torch.device("cpu"))
    run_trial(trial, toys.dataset(trial), context, lambda epoch: None)
    saved = checkpoints.load_best_model(store.storage, store.checkpoint_folder(trial.key))
    assert not any("parametrizations" in name for name in saved.tensors)

    images = toys.images()
    predictor = inference.TrialPredictor(saved, trial, torch.float32, torch.device("cpu"))
    probabilities = predictor.predict(images)
    rows = store.tables.trial_rows("predictions", trial.key)
    positions = {path: position for position, path in enumerate(images.paths)}
    own = np.array([row["probabilities"] for row in rows])
    again = probabilities[[positions[row["image"]] for row in rows]]
    np.testing.assert_allclose(again, own, atol=1e-5)
    row = store.tables.trial_rows("trials", trial.key)[0]
    head = 192 * 3 + 3
    assert head < row["trained_parameters"] < 0.1 * row["backbone_parameters"]


# layer decay


def test_each_block_learns_slower_than_the_one_after_it():
    trainer = toys.run(toys.trial(model=TRANSFORMER, epochs=1, layer_decay=0.5))
    train_curves(trainer)
    rates = block_rates(trainer)
    assert rates["head.weight"] == rates["backbone.norm.weight"] == 0.01
    assert rates["backbone.blocks.11.attn.qkv.weight"] == 0.005
    assert rates["backbone.blocks.0.mlp.fc1.bias"] == pytest.approx(0.01 * 0.5**12)
    assert rates.keys() == {name for name, _ in trainer.classifier.model.named_parameters()}


def test_layer_decay_applies_to_what_is_trained(tmp_path: Path):
    trainer = toys.run(toys.trial(model="resnet18", epochs=1, layer_decay=0.5, freeze="last1"))
    rates = block_rates(trainer)
    assert {name.partition(".")[0] for name in rates} == {"layer4", "fc"}


def test_layer_decay_of_one_changes_no_number():
    plain, decayed = (
        train_curves(toys.run(toys.trial(layer_decay=factor, epochs=2))) for factor in (1.0, 0.5)
    )
    assert plain == train_curves(toys.run(toys.trial(epochs=2)))
    assert plain != decayed


def test_head_alone_has_one_rate():
    curves = [
        train_curves(toys.run(toys.trial(freeze="features", layer_decay=factor)))
        for factor in (1.0, 0.5)
    ]
    assert curves[0] == curves[1]


def test_resumed_trial_keeps_the_rates_of_its_blocks():
    trial = toys.trial(layer_decay=0.5, schedule="cosine")
    expected = train_curves(toys.run(trial))
    interrupted = toys.run(trial)
    next(train(interrupted))
    resumed = toys.run(trial)
    resumed.load_state_dict(interrupted.state_dict())
    assert train_curves(resumed) == expected[1:]
