"""A quick yes is always right, and whatever exists in torchvision gets it."""

import pytest
import timm
from torchvision import models

import bioimg.models.resnext_tiny  # noqa: F401  (registers it)
from bioimg.models.quick_lookup import is_surely_available
from support.timm_folders import save_timm_folder

VIT = "vit_tiny_patch16_224"


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """Return a function that puts weights into an empty cache of the hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))

    def put(repository: str) -> None:
        folder = tmp_path / f"models--{repository.replace('/', '--')}" / "snapshots" / "1"
        folder.mkdir(parents=True)
        (folder / "model.safetensors").touch()
        (folder.parent.parent / "refs").mkdir()
        (folder.parent.parent / "refs" / "main").write_text("1")

    return put


@pytest.mark.parametrize("model", [*models.list_models(module=models), "resnext_tiny"])
def test_every_classifier_of_torchvision_is_found_with_each_of_its_weights(model):
    for weights in (*models.get_model_weights(model).__members__, "none"):
        assert is_surely_available(model, weights)
    assert not is_surely_available(model, "IMAGENET1K_V3")
    assert not is_surely_available(f"{model}_", "none")


def test_every_architecture_of_timm_is_found():
    assert all(is_surely_available(f"timm:{name}", "none") for name in timm.list_models())
    assert not is_surely_available("timm:vit_tiny_patch16_242", "none")


@pytest.mark.parametrize("weights", ["DEFAULT", "augreg_in21k"])
def test_weights_of_timm_must_be_on_this_machine(weights, hub_cache):
    assert not is_surely_available(f"timm:{VIT}", weights)
    hub_cache(f"timm/{VIT}.augreg_in21k")
    assert is_surely_available(f"timm:{VIT}", weights)
    assert not is_surely_available(f"timm:{VIT}.augreg_in21k", "augreg_in21k")


@pytest.mark.parametrize(
    ("model", "repository"),
    [("uni", "MahmoodLab/UNI"), ("hub:lab/model", "lab/model")],
)
def test_weights_of_a_repository_must_be_on_this_machine(model, repository, hub_cache):
    assert not is_surely_available(model, "DEFAULT")
    hub_cache(repository)
    assert is_surely_available(model, "DEFAULT")
    assert not is_surely_available(model, "V2")


def test_folder_needs_both_files(tmp_path):
    assert not is_surely_available(f"folder:{tmp_path}", "DEFAULT")
    save_timm_folder(tmp_path, VIT, 32)
    assert is_surely_available(f"folder:{tmp_path}", "DEFAULT")
    (tmp_path / "model.safetensors").unlink()
    assert not is_surely_available(f"folder:{tmp_path}", "DEFAULT")


def test_file_of_weights_must_exist(tmp_path):
    file = tmp_path / "own.pth"
    assert not is_surely_available("resnet50", str(file))
    file.touch()
    assert is_surely_available("resnet50", str(file))
