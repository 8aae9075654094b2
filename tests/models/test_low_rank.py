"""Low-rank updates (LoRA): what is trained, and that merging changes no number."""

import pytest
import torch
from torch import nn

from bioimg.config import ModelConfig
from bioimg.errors import UserError
from bioimg.models.classifier import Classifier, build_classifier, check_model
from bioimg.models.feature_extractor import backbone_digest
from bioimg.models.low_rank import add_low_rank_updates, merged_state

IMAGES = torch.rand(4, 3, 32, 32, generator=torch.manual_seed(0))
MODELS = ["timm:vit_tiny_patch16_224", "timm:convnext_atto", "timm:swin_tiny_patch4_window7_224"]


def build(model: str, freeze: str = "lora4") -> Classifier:
    config = ModelConfig(model=model, weights="none", freeze=freeze, image_size=32)
    return build_classifier(config, classes=3)


def add_updates(classifier: Classifier, freeze: str = "lora4", seed: int = 0) -> nn.Module:
    add_low_rank_updates(classifier.model, classifier.head_name, freeze, seed)
    return classifier.model


def train_a_little(model: nn.Module) -> None:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.01)
    for _ in range(3):
        model(IMAGES).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("model", MODELS)
def test_updates_change_nothing_before_they_are_trained(model):
    classifier = build(model)
    classifier.model.eval()
    before = classifier.model(IMAGES)
    assert torch.equal(add_updates(classifier)(IMAGES), before)


@pytest.mark.parametrize("model", MODELS)
def test_only_updates_and_the_head_are_trained(model):
    classifier = build(model)
    add_updates(classifier)
    for name, parameter in classifier.model.named_parameters():
        is_update = name.endswith((".up", ".down"))
        assert parameter.requires_grad == (is_update or name.startswith("head.")), name


@pytest.mark.parametrize("model", MODELS)
def test_training_changes_every_update_and_no_weight_of_the_backbone(model):
    classifier = build(model)
    add_updates(classifier)
    before = {name: tensor.clone() for name, tensor in classifier.model.state_dict().items()}
    train_a_little(classifier.model)
    for name, tensor in classifier.model.state_dict().items():
        is_trained = name.endswith((".up", ".down")) or name.startswith("head.")
        assert torch.equal(tensor, before[name]) != is_trained, name


@pytest.mark.parametrize("model", MODELS)
def test_merged_model_gives_the_same_logits_under_its_own_names(model):
    classifier = build(model)
    add_updates(classifier)
    train_a_little(classifier.model)
    plain = build(model)
    plain.model.load_state_dict(merged_state(classifier.model))
    plain.model.eval()
    classifier.model.eval()
    assert not torch.allclose(plain.model(IMAGES), build(model).model.eval()(IMAGES), atol=1e-3)
    torch.testing.assert_close(plain.model(IMAGES), classifier.model(IMAGES), atol=1e-5, rtol=0)


def test_attention_of_torch_itself_is_updated_too():
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    model = nn.Sequential()
    model.add_module("blocks", nn.Sequential(layer, nn.TransformerEncoderLayer(16, 2, 32)))
    model.add_module("head", nn.Linear(16, 3))
    model.requires_grad_(False)
    add_low_rank_updates(model, "head", "lora4", seed=0)
    updated = {name for name, _ in model.named_parameters() if name.endswith(".up")}
    assert "blocks.0.self_attn.parametrizations.in_proj_weight.0.up" in updated
    assert "blocks.0.self_attn.out_proj.parametrizations.weight.0.up" in updated


def test_seed_determines_updates_and_leaves_the_random_state_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(5)
        classifier = build(MODELS[0])
        add_updates(classifier, seed=seed)
        assert torch.equal(torch.rand(1), expected)
        states.append(classifier.model.state_dict())
    name = "backbone.blocks.0.attn.qkv.parametrizations.weight.0.down"
    assert torch.equal(states[0][name], states[1][name])
    assert not torch.equal(states[0][name], states[2][name])


@pytest.mark.parametrize(("freeze", "rank"), [("lora4", 4), ("lora8", 8), ("lora16", 16)])
def test_freeze_names_the_rank(freeze, rank):
    model = add_updates(build(MODELS[0], freeze), freeze)
    ranks = {parameter.shape[1] for name, parameter in model.named_parameters() if ".up" in name}
    assert ranks == {rank}


def test_without_updates_the_state_is_the_models_own():
    classifier = build(MODELS[0], "last2")
    model = add_updates(classifier, "last2")
    assert merged_state(model).keys() == model.state_dict().keys()


def test_updates_under_autocast_have_the_precision_of_the_weights():
    model = add_updates(build(MODELS[0]))
    with torch.autocast("cpu", torch.bfloat16):
        weight = model.get_submodule("backbone.blocks.0.attn.qkv").weight
    assert weight.dtype == torch.float32


@pytest.mark.parametrize("model", ["resnet18", "efficientnet_b0", "timm:resnet10t"])
def test_cnn_is_refused_with_what_suits_it(model):
    config = ModelConfig(model=model, weights="none", freeze="lora8", image_size=32)
    with pytest.raises(UserError, match=r"`freeze` is 'lora8'.*last1"):
        check_model(config)


def test_frozen_weights_are_those_of_other_ways_to_freeze():
    assert backbone_digest(build(MODELS[0])) == backbone_digest(build(MODELS[0], "features"))
