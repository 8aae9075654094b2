"""What `freeze` names, for models whose modules are built in different ways."""

import pytest
import torch

from bioimg.config import ModelConfig
from bioimg.errors import UserError
from bioimg.models.classifier import Classifier, build_classifier, find_head_name
from bioimg.models.model_parts import block_depths, block_names


def build(model: str, freeze: str = "none", size: int = 32) -> Classifier:
    return build_classifier(
        ModelConfig(model=model, weights="none", freeze=freeze, image_size=size), classes=3
    )


def trained_names(classifier: Classifier) -> list[str]:
    parameters = classifier.model.named_parameters()
    return [name for name, parameter in parameters if parameter.requires_grad]


@pytest.mark.parametrize(
    ("model", "size", "count", "last"),
    [
        ("resnet18", 32, 8, "layer4.1"),
        ("efficientnet_b0", 32, 16, "features.7.0"),
        ("timm:vit_tiny_patch16_224", 32, 13, "backbone.blocks.11"),
        ("timm:convnext_atto", 32, 12, "backbone.stages.3.blocks.1"),
        pytest.param(
            "densenet121", 32, 58, "features.denseblock4.denselayer16", marks=pytest.mark.nightly
        ),
        pytest.param("swin_t", 224, 15, "features.7.1", marks=pytest.mark.nightly),
        pytest.param(
            "vit_b_16", 224, 12, "encoder.layers.encoder_layer_11", marks=pytest.mark.nightly
        ),
        pytest.param(
            "regnet_y_400mf", 32, 16, "trunk_output.block4.block4-5", marks=pytest.mark.nightly
        ),
        pytest.param("vgg11", 32, 8, "features.18", marks=pytest.mark.nightly),
    ],
)
def test_blocks_are_the_repeated_modules_of_a_model(model, size, count, last):
    classifier = build(model, size=size)
    blocks = block_names(classifier.model, classifier.head_name)
    assert len(blocks) == count
    assert blocks[-1] == last


@pytest.mark.parametrize("model", ["resnet18", "timm:vit_tiny_patch16_224"])
@pytest.mark.parametrize(("freeze", "count"), [("last1", 1), ("last2", 2), ("last4", 4)])
def test_last_blocks_are_trained_with_the_head(model, freeze, count):
    classifier = build(model, freeze)
    blocks = block_names(classifier.model, classifier.head_name)
    trained = trained_names(classifier)
    for block in blocks[-count:]:
        assert any(name.startswith(f"{block}.") for name in trained)
    for block in blocks[:-count]:
        assert not any(name.startswith(f"{block}.") for name in trained)
    assert f"{classifier.head_name}.weight" in trained


def test_frozen_blocks_stay_in_eval_mode_and_trained_ones_do_not():
    classifier = build("resnet18", "last1")
    classifier.train()
    modes = {name: module.training for name, module in classifier.model.named_modules()}
    assert not modes["bn1"]
    assert not modes["layer4.0.bn1"]
    assert modes["layer4.1.bn1"]


def test_position_embeddings_are_frozen_with_the_first_blocks():
    classifier = build("timm:vit_tiny_patch16_224", "backbone.blocks")
    trained = trained_names(classifier)
    assert "backbone.cls_token" not in trained
    assert "backbone.norm.weight" in trained


def test_unknown_part_lists_the_parts_of_the_model():
    with pytest.raises(UserError, match=r"'layer9'.*last1.*layer4"):
        build("resnet18", "layer9")


def test_gradients_reach_what_is_trained_alone():
    classifier = build("timm:vit_tiny_patch16_224", "last2")
    classifier.model(torch.rand(2, 3, 32, 32)).sum().backward()
    with_gradient = [
        name
        for name, parameter in classifier.model.named_parameters()
        if parameter.grad is not None
    ]
    assert with_gradient == trained_names(classifier)


def test_head_is_the_last_linear_layer():
    assert find_head_name(ModelConfig(model="resnet18", image_size=32)) == "fc"


# the distance from the head


def depths(model: str) -> dict[str, int]:
    classifier = build(model)
    return block_depths(classifier.model, classifier.head_name)


def test_depth_counts_blocks_from_the_head():
    of_name = depths("resnet18")
    assert of_name["fc.weight"] == 0
    assert of_name["layer4.1.conv2.weight"] == of_name["layer4.1.bn1.bias"] == 1
    assert of_name["layer4.0.downsample.0.weight"] == 2
    assert of_name["layer1.0.conv1.weight"] == of_name["conv1.weight"] == 8


def test_depth_of_a_transformer_is_that_of_beit():
    of_name = depths("timm:vit_tiny_patch16_224")
    for name in ("cls_token", "pos_embed", "patch_embed.proj.weight"):
        assert of_name[f"backbone.{name}"] == 13
    for block in range(12):
        assert of_name[f"backbone.blocks.{block}.attn.qkv.weight"] == 12 - block
    assert of_name["backbone.norm.weight"] == of_name["head.weight"] == 0
