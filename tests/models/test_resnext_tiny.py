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

from bioimg.data.synthetic_tissue import draw_phantom
from bioimg.models.resnext_tiny import EMBEDDED_FOLDER, ResNeXt_Tiny_Weights, resnext_tiny
from support import PROJECT


def test_torchvision_builds_it_by_name():
    model = torchvision.models.get_model("resnext_tiny", num_classes=6)
    assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 6)
    assert torchvision.models.get_model_weights("resnext_tiny") is ResNeXt_Tiny_Weights


def test_it_has_the_stages_of_torchvisions_own_resnext():
    own = [name for name, _ in torchvision.models.resnext50_32x4d().named_children()]
    assert [name for name, _ in resnext_tiny().named_children()] == own


def test_it_is_a_grouped_network_of_under_a_million_parameters():
    model = resnext_tiny(num_classes=6)
    backbone = sum(p.numel() for name, p in model.named_parameters() if not name.startswith("fc."))
    assert backbone == 438_408 == ResNeXt_Tiny_Weights.DEFAULT.meta["num_params"]
    assert {
        module.groups
        for module in model.modules()
        if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3)
    } == {8}


@pytest.mark.parametrize("weights", list(ResNeXt_Tiny_Weights))
def test_embedded_weights_are_small_and_all_but_the_head(weights: ResNeXt_Tiny_Weights):
    state = weights.get_state_dict()
    fit = resnext_tiny().load_state_dict(state, strict=False)
    assert (fit.missing_keys, fit.unexpected_keys) == (["fc.weight", "fc.bias"], [])
    assert (EMBEDDED_FOLDER / Path(weights.url).name).stat().st_size < 5_000_000


def test_weights_given_by_name_are_loaded_under_a_head_of_the_callers_size():
    model = resnext_tiny(weights="TEXTURES_V1", num_classes=4)
    assert torch.equal(
        model.conv1.weight, ResNeXt_Tiny_Weights.TEXTURES_V1.get_state_dict()["conv1.weight"]
    )
    assert model.fc.out_features == 4


def test_default_weights_are_those_of_the_second_recipe():
    assert ResNeXt_Tiny_Weights.DEFAULT is ResNeXt_Tiny_Weights.TEXTURES_V2
    assert not torch.equal(
        *(weights.get_state_dict()["conv1.weight"] for weights in ResNeXt_Tiny_Weights)
    )


def accuracy(model: nn.Module, images: torch.Tensor, labels: np.ndarray) -> float:
    """Of a logistic regression on frozen features, over three folds."""
    body = nn.Sequential(*list(model.eval().children())[:-1], nn.Flatten())
    with torch.inference_mode():
        features = body(images).numpy()
    head = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000))
    with threadpool_limits(1):  # small matrices: threads only wait for each other on a busy machine
        return cross_val_score(
            head, features, labels, cv=StratifiedKFold(3, shuffle=True, random_state=0)
        ).mean()


@pytest.mark.nightly
def test_a_linear_head_on_embedded_weights_beats_one_on_random_weights():
    torch.manual_seed(0)
    drawn, preprocess = draw_phantom(), ResNeXt_Tiny_Weights.DEFAULT.transforms()
    images = preprocess(torch.tensor(drawn.pixels).permute(0, 3, 1, 2))
    none, v1, v2 = (
        accuracy(resnext_tiny(weights=w), images, drawn.labels)
        for w in (None, *ResNeXt_Tiny_Weights)
    )
    assert min(v1, v2) > none + 0.15


@pytest.fixture(scope="module")
def pretrain() -> SimpleNamespace:
    return SimpleNamespace(**runpy.run_path(str(PROJECT / "experiments" / "pretrain_textures.py")))


def test_textures_are_drawn_anew_each_time_and_each_class_differs(pretrain: SimpleNamespace):
    labels = torch.arange(pretrain.CLASS_COUNT)
    once, again = pretrain.draw_textures(labels), pretrain.draw_textures(labels)
    assert once.shape == (60, 3, 64, 64)
    assert 0 <= once.min() < once.max() <= 1
    assert (once - again).abs().mean((1, 2, 3)).min() > 0.01
    bare = torch.stack(
        [
            pretrain.draw_patterns(label // 6, torch.full((8,), label % 6)).mean()
            for label in range(60)
        ]
    )
    assert bare.std() > 0.05


def test_pretraining_is_the_same_to_the_last_bit_for_the_same_seed(pretrain: SimpleNamespace):
    recipe = pretrain.TrainingSettings(
        steps=2,
        batch_size=8,
        warmup_steps=1,
        cosine_schedule=True,
        regularise=True,
        ema_decay=0.9,
    )
    one, same, other = (pretrain.train_network(recipe, seed).conv1.weight for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_saved_weights_leave_out_the_head(pretrain: SimpleNamespace, tmp_path: Path):
    pretrain.save_backbone(resnext_tiny(num_classes=9), tmp_path / "new" / "weights.safetensors")
    fit = resnext_tiny().load_state_dict(
        load_file(tmp_path / "new" / "weights.safetensors"), strict=False
    )
    assert (fit.missing_keys, fit.unexpected_keys) == (["fc.weight", "fc.bias"], [])
