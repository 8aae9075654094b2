from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from bioimg.data.phantom import phantom
from bioimg.model.tiny import EMBEDDED, ResNeXt_Tiny_Weights, resnext_tiny


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
    assert {module.groups for module in model.modules() if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3)} == {
        8
    }


@pytest.mark.parametrize("weights", list(ResNeXt_Tiny_Weights))
def test_embedded_weights_are_small_and_all_but_the_head(weights: ResNeXt_Tiny_Weights):
    state = weights.get_state_dict()
    fit = resnext_tiny().load_state_dict(state, strict=False)
    assert (fit.missing_keys, fit.unexpected_keys) == (["fc.weight", "fc.bias"], [])
    assert (EMBEDDED / Path(weights.url).name).stat().st_size < 5_000_000


def test_weights_given_by_name_are_loaded_under_a_head_of_the_callers_size():
    model = resnext_tiny(weights="TEXTURES_V1", num_classes=4)
    assert torch.equal(model.conv1.weight, ResNeXt_Tiny_Weights.TEXTURES_V1.get_state_dict()["conv1.weight"])
    assert model.fc.out_features == 4


def test_default_weights_are_those_of_the_second_recipe():
    assert ResNeXt_Tiny_Weights.DEFAULT is ResNeXt_Tiny_Weights.TEXTURES_V2
    assert not torch.equal(*(weights.get_state_dict()["conv1.weight"] for weights in ResNeXt_Tiny_Weights))


def accuracy(model: nn.Module, images: torch.Tensor, labels: np.ndarray) -> float:
    """Of a logistic regression on frozen features, over five folds."""
    body = nn.Sequential(*list(model.eval().children())[:-1], nn.Flatten())
    with torch.inference_mode():
        features = body(images).numpy()
    head = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000))
    return cross_val_score(head, features, labels, cv=StratifiedKFold(5, shuffle=True, random_state=0)).mean()


def test_a_linear_head_on_embedded_weights_beats_one_on_random_weights():
    torch.manual_seed(0)
    drawn, preprocess = phantom(), ResNeXt_Tiny_Weights.DEFAULT.transforms()
    images = preprocess(torch.from_numpy(drawn.pixels).permute(0, 3, 1, 2))
    none, v1, v2 = (accuracy(resnext_tiny(weights=w), images, drawn.labels) for w in (None, *ResNeXt_Tiny_Weights))
    assert min(v1, v2) > none + 0.15
