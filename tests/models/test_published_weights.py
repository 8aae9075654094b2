"""Every torchvision classifier takes its published file, is trained, kept and used to predict."""

import re
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torchvision import models

from bioimg.config import ModelConfig
from bioimg.errors import UserError
from bioimg.models import classifier
from bioimg.models.checked_safetensors import decode_tensors
from bioimg.models.classifier import build_classifier, check_model, find_head_name
from bioimg.models.pretrained_weights import _fetch_weights
from bioimg.storage.filesystem import LocalStorage
from bioimg.training import checkpoint_files, checkpoints
from bioimg.training.inference import TrialPredictor
from bioimg.training.loop import train
from support import toys

OTHER_ENDS = {"googlenet", "inception_v3", "squeezenet1_0", "squeezenet1_1"}
"""Models that don't end in one linear layer."""
MODELS = [name for name in models.list_models(module=models) if name not in OTHER_ENDS]
MAX_TRAINED_PARAMETERS = 150_000_000
PUBLISHED_NAMES = {
    "densenet": (r"(norm|conv)([12])\.", r"\1.\2."),
    "vit": (r"\.mlp\.([03])\.", lambda match: f".mlp.linear_{1 if match[1] == '0' else 2}."),
}
"""How names of tensors differ in the files that torchvision published."""


def save_published(model_name: str, folder: Path) -> tuple[str, nn.Module]:
    """Save a random model as torchvision published its own. Return the file and the model."""
    torch.manual_seed(1)
    model = models.get_model(model_name, weights=None)
    state = model.state_dict()
    versions = state._metadata
    for family, (own, published) in PUBLISHED_NAMES.items():
        if model_name.startswith(family):
            state = OrderedDict((re.sub(own, published, name), t) for name, t in state.items())
    if model_name.startswith("vit"):
        versions = {name: {} for name in versions}
    state._metadata = versions
    torch.save(state, folder / "published.pth")
    return str(folder / "published.pth"), model


def smallest_size(model_name: str) -> int:
    for size in (32, 64):
        try:
            check_model(ModelConfig(model=model_name, weights="none", image_size=size))
            return size
        except UserError:
            continue
    return 224


@pytest.fixture(autouse=True)
def forget_models():
    """Free the memory that the models of a test take."""
    yield
    classifier._pretrained_model.cache_clear()


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name == "mnasnet0_5" else pytest.mark.nightly)
        for name in MODELS
    ],
)
def test_published_file_is_loaded_trained_kept_and_used(name, tmp_path):
    file, published = save_published(name, tmp_path)
    config = ModelConfig(model=name, weights=file)
    loaded = build_classifier(config, classes=3).model.state_dict()
    head = find_head_name(config)
    for tensor_name, tensor in published.state_dict().items():
        assert tensor_name.startswith(head) or torch.equal(loaded[tensor_name], tensor)
    if sum(tensor.numel() for tensor in loaded.values()) > MAX_TRAINED_PARAMETERS:
        return
    size = smallest_size(name)
    trial = toys.trial(model=name, weights=file, image_size=size, epochs=1, learning_rate=1e-4)
    trainer = toys.run(trial, toys.images(per_class=8, size=size))
    (epoch,) = train(trainer)
    assert np.isfinite(epoch.train_loss)
    trainer.restore_best()
    expected = trainer.predict_logits(np.arange(24)).softmax(1)
    state = checkpoint_files.next_state_file("trial", None)
    checkpoints.save_completed(trainer, LocalStorage(tmp_path), "trial", "best", state)
    saved = decode_tensors((tmp_path / "trial" / checkpoint_files.BEST_MODEL_FILE).read_bytes())
    predictor = TrialPredictor(saved, trial, torch.float32, torch.device("cpu"))
    predicted = predictor.predict(trainer.images)
    np.testing.assert_allclose(predicted, expected, atol=1e-5)


@pytest.mark.parametrize("name", ["densenet121", "vit_b_32"])
def test_published_names_of_earlier_versions_are_understood(name, tmp_path):
    file, published = save_published(name, tmp_path)
    config = ModelConfig(model=name, weights=file)
    loaded = build_classifier(config, classes=3).model.state_dict()
    head = find_head_name(config)
    for tensor_name, tensor in published.state_dict().items():
        assert tensor_name.startswith(head) or torch.equal(loaded[tensor_name], tensor)


def test_state_dict_without_versions_is_of_the_installed_torchvision(tmp_path):
    model = models.mnasnet0_5(weights=None)
    torch.save(dict(model.state_dict()), tmp_path / "plain.pth")
    config = ModelConfig(model="mnasnet0_5", weights=str(tmp_path / "plain.pth"))
    loaded = build_classifier(config, classes=3).model.state_dict()
    assert torch.equal(loaded["layers.0.weight"], model.state_dict()["layers.0.weight"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("layer1.0.conv1.weight"), "missing: layer1.0.conv1.weight"),
        (lambda state: state.update(extra=torch.zeros(1)), "unexpected: extra"),
        (
            lambda state: state.update({"conv1.weight": torch.zeros(1)}),
            r"of another shape: conv1.weight \(\(1,\) for \(64, 3, 7, 7\)\)\.",
        ),
    ],
)
def test_file_of_another_model_is_refused_by_its_tensors(change, message, tmp_path):
    state = models.resnet18(weights=None).state_dict()
    change(state)
    torch.save(state, tmp_path / "other.pth")
    config = ModelConfig(model="resnet18", weights=str(tmp_path / "other.pth"))
    with pytest.raises(UserError, match=message):
        build_classifier(config, classes=3)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"<html>", None])
def test_damaged_file_in_the_cache_of_torch_is_named(content, tmp_path, monkeypatch):
    entry = models.ResNet18_Weights.IMAGENET1K_V1
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    file = tmp_path / "checkpoints" / Path(entry.url).name
    file.parent.mkdir()
    torch.save(models.resnet18(weights=None).state_dict(), file)
    file.write_bytes(file.read_bytes()[:-5000] if content is None else content)
    with pytest.raises(UserError, match=rf"{file.name} is cut off or damaged: .*Delete it and run"):
        _fetch_weights(entry)
