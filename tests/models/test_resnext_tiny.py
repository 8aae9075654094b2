import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from torch import nn

from bioimg.config import DatasetConfig
from bioimg.data import load_dataset
from bioimg.models.resnext_tiny import EMBEDDED_FOLDER, ResNeXt_Tiny_Weights, resnext_tiny
from support import PROJECT


def test_torchvision_builds_model_by_name():
    model = torchvision.models.get_model("resnext_tiny", num_classes=6)
    assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 6)
    assert torchvision.models.get_model_weights("resnext_tiny") is ResNeXt_Tiny_Weights


def test_stages_are_those_of_torchvision_resnext():
    expected = [name for name, _ in torchvision.models.resnext50_32x4d().named_children()]
    assert [name for name, _ in resnext_tiny().named_children()] == expected


def test_model_is_grouped_and_small():
    model = resnext_tiny(num_classes=6)
    backbone = sum(p.numel() for name, p in model.named_parameters() if not name.startswith("fc."))
    assert backbone == 438_408 == ResNeXt_Tiny_Weights.DEFAULT.meta["num_params"]
    assert {
        module.groups
        for module in model.modules()
        if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3)
    } == {8}


@pytest.mark.parametrize("weights", list(ResNeXt_Tiny_Weights))
def test_embedded_weights_are_small_and_lack_the_head(weights: ResNeXt_Tiny_Weights):
    state = weights.get_state_dict()
    loaded = resnext_tiny().load_state_dict(state, strict=False)
    assert (loaded.missing_keys, loaded.unexpected_keys) == (["fc.weight", "fc.bias"], [])
    assert (EMBEDDED_FOLDER / Path(weights.url).name).stat().st_size < 5_000_000


def test_named_weights_load_below_a_new_head():
    model = resnext_tiny(weights="TEXTURES_V1", num_classes=4)
    assert torch.equal(
        model.conv1.weight, ResNeXt_Tiny_Weights.TEXTURES_V1.get_state_dict()["conv1.weight"]
    )
    assert model.fc.out_features == 4


def test_default_weights_are_textures_v2():
    assert ResNeXt_Tiny_Weights.DEFAULT is ResNeXt_Tiny_Weights.TEXTURES_V2
    assert not torch.equal(
        *(weights.get_state_dict()["conv1.weight"] for weights in ResNeXt_Tiny_Weights)
    )


def accuracy(model: nn.Module, images: torch.Tensor, labels: np.ndarray) -> float:
    """Return the accuracy of a logistic regression on frozen features, over three folds."""
    body = nn.Sequential(*list(model.eval().children())[:-1], nn.Flatten())
    with torch.inference_mode():
        features = body(images).numpy()
    head = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000))
    with threadpool_limits(1):  # small matrices: threads only wait for each other on a busy machine
        return cross_val_score(
            head, features, labels, cv=StratifiedKFold(3, shuffle=True, random_state=0)
        ).mean()


@pytest.mark.nightly
def test_embedded_weights_beat_random_ones():
    torch.manual_seed(0)
    phantom = load_dataset(DatasetConfig(data="phantom", image_size=64)).images
    preprocess = ResNeXt_Tiny_Weights.DEFAULT.transforms()
    images = preprocess(torch.tensor(phantom.pixels).permute(0, 3, 1, 2))
    none, v1, v2 = (
        accuracy(resnext_tiny(weights=w), images, phantom.labels)
        for w in (None, *ResNeXt_Tiny_Weights)
    )
    assert min(v1, v2) > none + 0.15


@pytest.fixture(scope="module")
def pretrain() -> SimpleNamespace:
    return SimpleNamespace(**runpy.run_path(str(PROJECT / "experiments" / "pretrain_textures.py")))


def test_textures_vary_and_classes_differ(pretrain: SimpleNamespace):
    labels = torch.arange(pretrain.CLASS_COUNT)
    first, second = pretrain.draw_textures(labels), pretrain.draw_textures(labels)
    assert first.shape == (60, 3, 64, 64)
    assert 0 <= first.min() < first.max() <= 1
    assert (first - second).abs().mean((1, 2, 3)).min() > 0.01
    mean_by_class = torch.stack(
        [
            pretrain.draw_patterns(label // 6, torch.full((8,), label % 6)).mean()
            for label in range(60)
        ]
    )
    assert mean_by_class.std() > 0.05


def test_pretraining_is_reproducible(pretrain: SimpleNamespace):
    settings = pretrain.TrainingSettings(
        steps=2,
        batch_size=8,
        warmup_steps=1,
        cosine_schedule=True,
        regularise=True,
        ema_decay=0.9,
    )
    first, repeated, other = (
        pretrain.train_network(settings, seed).conv1.weight for seed in (0, 0, 1)
    )
    assert torch.equal(first, repeated)
    assert not torch.equal(first, other)


def test_saved_weights_lack_the_head(pretrain: SimpleNamespace, tmp_path: Path):
    pretrain.save_backbone(resnext_tiny(num_classes=9), tmp_path / "new" / "weights.safetensors")
    loaded = resnext_tiny().load_state_dict(
        load_file(tmp_path / "new" / "weights.safetensors"), strict=False
    )
    assert (loaded.missing_keys, loaded.unexpected_keys) == (["fc.weight", "fc.bias"], [])
