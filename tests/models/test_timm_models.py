"""Models of timm, from folders of random weights: the features are timm's own."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from bioimg.config import ModelConfig
from bioimg.errors import UserError
from bioimg.models import timm_models
from bioimg.models.classifier import build_classifier, check_model
from bioimg.models.model_source import find_model_source
from bioimg.models.pathology import PATHOLOGY_MODELS
from bioimg.models.timm_models import count_features
from support.timm_folders import FAMILY_SIZES, save_timm_folder

VIT = "vit_tiny_patch16_224"


def config_of(folder: Path, size: int = 32, **fields: str) -> ModelConfig:
    return ModelConfig(
        model=f"folder:{folder}", image_size=size, **{"weights": "DEFAULT", **fields}
    )


@pytest.mark.parametrize(
    ("architecture", "size"),
    [
        pytest.param(name, size, marks=[pytest.mark.nightly] if size != 64 else [])
        for name, size in FAMILY_SIZES.items()
    ],
)
def test_features_of_a_folder_are_those_of_timm(architecture, size, tmp_path):
    original = save_timm_folder(tmp_path, architecture, size)
    classifier = build_classifier(config_of(tmp_path, size), classes=3)
    classifier.model.eval()
    images = torch.rand(2, 3, size, size)
    with torch.no_grad():
        features = classifier.compute_features(images)
        expected = original(images)
    assert features.shape == (2, classifier.head.in_features)
    assert torch.allclose(features, expected, atol=1e-5)


def test_random_weights_are_determined_by_the_seed(tmp_path):
    save_timm_folder(tmp_path, VIT, 32)
    config = config_of(tmp_path, weights="none")
    first, second, other = (
        build_classifier(config, classes=3, seed=seed).model.state_dict() for seed in (1, 1, 2)
    )
    name = "backbone.blocks.0.mlp.fc1.weight"
    assert torch.equal(first[name], second[name])
    assert not torch.equal(first[name], other[name])


def test_position_embeddings_fit_the_image_size(tmp_path):
    save_timm_folder(tmp_path, VIT, 32)
    larger = build_classifier(config_of(tmp_path, 64), classes=3)
    embeddings = larger.model.get_parameter("backbone.pos_embed")
    assert embeddings.shape[1] == 1 + 4 * 4
    assert embeddings.abs().max() > 0


def test_file_of_weights_replaces_those_of_the_folder(tmp_path):
    save_timm_folder(tmp_path, VIT, 32)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["norm.weight"] = torch.full_like(tensors["norm.weight"], 7)
    save_file(tensors, tmp_path / "own.safetensors")
    config = config_of(tmp_path, weights=str(tmp_path / "own.safetensors"))
    norm = build_classifier(config, classes=3).model.get_parameter("backbone.norm.weight")
    assert (norm == 7).all()


@pytest.mark.parametrize("change", ["missing", "other shape", "unexpected", "all missing"])
def test_tensors_that_do_not_fit_are_refused(change, tmp_path):
    save_timm_folder(tmp_path, VIT, 32)
    tensors = load_file(tmp_path / "model.safetensors")
    if change == "missing":
        del tensors["blocks.3.attn.qkv.weight"]
    elif change == "other shape":
        tensors["norm.weight"] = torch.ones(5)
    elif change == "all missing":
        tensors = {}
    else:
        tensors["extra.weight"] = torch.ones(5)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="must be those of `model`") as caught:
        build_classifier(config_of(tmp_path), classes=3)
    assert "\n" not in str(caught.value)


def test_model_that_gives_tokens_is_refused(tmp_path):
    save_timm_folder(tmp_path, VIT, 32, global_pool="")
    with pytest.raises(UserError, match="must give one vector for an image"):
        check_model(config_of(tmp_path))


def test_image_size_between_patches_names_the_two_nearest(tmp_path):
    save_timm_folder(tmp_path, VIT, 32)
    with pytest.raises(UserError, match=r"must be a multiple of 16.*Use 32 or 48"):
        check_model(config_of(tmp_path, 40))


def test_folder_without_config_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"there is no file .*config\.json"):
        find_model_source(f"folder:{tmp_path}")


def test_model_of_transformers_is_refused(tmp_path):
    config = {"architectures": ["ViTModel"], "model_type": "vit", "hidden_size": 768}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="needs the package transformers"):
        find_model_source(f"folder:{tmp_path}")


@pytest.mark.parametrize(
    ("model", "closest"),
    [
        ("timm:vit_tiny_patch16_242", "'timm:vit_tiny_patch16_224'"),
        (f"timm:{VIT}.augreg_in22k", f"'timm:{VIT}.augreg_in21k'"),
        ("uni-2h", "'uni2-h'"),
    ],
)
def test_unknown_model_names_the_closest(model, closest):
    with pytest.raises(UserError, match=f"Did you mean {closest}"):
        find_model_source(model)


def test_unknown_weights_list_the_tags_of_the_model():
    source = find_model_source(f"timm:{VIT}")
    with pytest.raises(UserError, match=r"'IMAGENET1K_V2'.*DEFAULT.*augreg_in21k.*none"):
        source.check_weights("IMAGENET1K_V2")


def test_tag_in_the_name_leaves_only_its_weights():
    source = find_model_source(f"timm:{VIT}.augreg_in21k")
    assert source.weights_location("DEFAULT") == f"hub:timm/{VIT}.augreg_in21k"
    with pytest.raises(UserError, match="must be one of: DEFAULT, none"):
        source.check_weights("augreg_in21k_ft_in1k")


@pytest.mark.parametrize(
    ("model", "mean"),
    [
        (f"timm:{VIT}", 0.5),
        ("timm:vit_small_patch14_dinov2", 0.485),
        ("h-optimus-0", 0.707223),
        ("kaiko", 0.5),
        ("resnet18", 0.485),
    ],
)
def test_normalisation_is_that_of_the_weights(model, mean):
    weights = "IMAGENET1K_V1" if model == "resnet18" else "DEFAULT"
    assert find_model_source(model).normalisation(weights).mean[0] == mean


def test_normalisation_of_a_folder_is_that_of_its_config(tmp_path):
    save_timm_folder(tmp_path, VIT, 32)
    config = json.loads((tmp_path / "config.json").read_text())
    config["pretrained_cfg"]["mean"] = [0.1, 0.2, 0.3]
    (tmp_path / "config.json").write_text(json.dumps(config))
    source = find_model_source(f"folder:{tmp_path}")
    assert source.normalisation("DEFAULT").mean == (0.1, 0.2, 0.3)


LARGE = ("uni", "uni2-h", "virchow", "virchow2", "h-optimus-0", "h-optimus-1", "gigapath")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.nightly] if name in LARGE else [])
        for name in PATHOLOGY_MODELS
    ],
)
def test_pathology_model_has_the_width_of_its_card(name):
    assert count_features(name, 224) == PATHOLOGY_MODELS[name].features


def test_class_token_stands_beside_the_mean_of_patch_tokens(monkeypatch):
    facts = dataclasses.replace(
        PATHOLOGY_MODELS["kaiko"],
        architecture=VIT,
        arguments={"reg_tokens": 4},
        pooling="class+mean",
        features=2 * 192,
    )
    monkeypatch.setitem(timm_models.PATHOLOGY_MODELS, "small", facts)
    classifier = build_classifier(ModelConfig(model="small", weights="none", image_size=32), 3)
    classifier.model.eval()
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        tokens = classifier.model.get_submodule("backbone").forward_features(images)
        features = classifier.compute_features(images)
    assert torch.equal(features[:, :192], tokens[:, 0])
    assert torch.allclose(features[:, 192:], tokens[:, 5:].mean(1))


def test_origin_names_the_folder_and_its_licence(tmp_path):
    save_timm_folder(tmp_path, VIT, 32)
    origin = find_model_source(f"folder:{tmp_path}").weights_origin("DEFAULT")
    assert origin.source == str(tmp_path)
    assert origin.licence == "apache-2.0"


@pytest.mark.parametrize(
    ("model", "weights", "interpolation"),
    [("resnet18", "IMAGENET1K_V1", "bilinear"), ("swin_t", "IMAGENET1K_V1", "bicubic")],
)
def test_origin_says_how_images_were_resized_for_the_weights(model, weights, interpolation):
    assert find_model_source(model).weights_origin(weights).interpolation == interpolation


def test_origin_of_a_folder_says_how_images_were_resized(tmp_path):
    save_timm_folder(tmp_path, VIT, 32)
    origin = find_model_source(f"folder:{tmp_path}").weights_origin("DEFAULT")
    assert origin.interpolation == "bicubic"


def test_origin_of_torchvision_is_an_address():
    origin = find_model_source("resnet18").weights_origin("IMAGENET1K_V1")
    assert origin.source.startswith("https://download.pytorch.org/")
