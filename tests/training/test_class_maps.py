"""Grad-CAM maps: where a model finds what raises the score of a class."""

import dataclasses

import numpy as np
import pytest
import torch

from bioimg.errors import UserError
from bioimg.models.checked_safetensors import SavedModel
from bioimg.models.classifier import build_classifier
from bioimg.training.class_maps import ClassMapper, draw_overlay, expose_grid
from bioimg.training.loop import train
from support import toys

SIZES = {
    "resnet18": 128,
    "resnext_tiny": 64,
    "densenet121": 128,
    "swin_t": 128,
    "timm:vit_tiny_patch16_224": 64,
    "timm:swin_tiny_patch4_window7_224": 224,
    "timm:vit_small_patch14_reg4_dinov2": 56,
}


@pytest.mark.parametrize("model", SIZES)
def test_model_with_exposed_maps_computes_what_it_did(model: str):
    trial = toys.trial(model=model, image_size=SIZES[model], freeze="features")
    classifier = build_classifier(trial.model_config, classes=3)
    images = torch.rand(2, 3, SIZES[model], SIZES[model])
    maps: list[torch.Tensor] = []
    classifier.model.eval()
    with torch.no_grad():
        before = classifier.model(images)
        grid = expose_grid(classifier, trial)
        grid.register_forward_hook(lambda _, __, outputs: maps.append(outputs))
        assert torch.equal(classifier.model(images), before)
    assert maps[0].ndim == 4
    assert maps[0].shape[2] == maps[0].shape[3] >= 4


def test_model_without_maps_is_refused_in_one_line():
    trial = toys.trial(model="timm:vit_tiny_patch16_224", image_size=32)
    classifier = build_classifier(trial.model_config, classes=3)
    with pytest.raises(UserError, match="none of its layers has maps of at least 4 x 4") as refused:
        expose_grid(classifier, trial)
    assert "\n" not in str(refused.value)


@pytest.mark.nightly
def test_map_is_strongest_where_the_class_was_drawn():
    images = toys.images(per_class=10, classes=2, size=64)
    pixels = np.full_like(images.pixels, 128)
    corners = np.where(images.labels == 0, 8, 40)
    for row, corner in enumerate(corners):
        colour = (255, 0, 0) if images.labels[row] == 0 else (0, 0, 255)
        pixels[row, corner : corner + 16, corner : corner + 16] = colour
    images = dataclasses.replace(images, pixels=pixels)
    trial = toys.trial(
        model="resnext_tiny", image_size=64, epochs=8, batch_size=8, learning_rate=1e-3
    )
    trainer = toys.run(trial, images)
    list(train(trainer))
    metadata = {"classes": list(images.classes), "normalisation": trainer.normalisation}
    saved = SavedModel(trainer.classifier.model.state_dict(), metadata)
    mapper = ClassMapper(saved, trial, torch.device("cpu"))
    inside = []
    for corner, class_map in zip(corners, mapper.iter_maps(images, images.labels), strict=True):
        assert class_map.shape == (64, 64)
        assert 0 <= class_map.min() <= class_map.max() <= 1.0001
        square = class_map[corner : corner + 16, corner : corner + 16]
        inside.append(square.mean() - class_map.mean())
    assert np.mean(inside) > 0.1


def test_overlay_leaves_an_image_alone_where_its_map_is_zero():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    class_map = np.zeros((8, 8), np.float32)
    assert np.array_equal(draw_overlay(pixels, class_map), pixels)
    class_map[2, 3] = 1
    changed = (draw_overlay(pixels, class_map) != pixels).any(2)
    assert np.argwhere(changed).tolist() == [[2, 3]]
