"""How typical images are of the training images."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from bioimg.data.external_images import select_images
from bioimg.data.image_set import ImageSet
from bioimg.models.checked_safetensors import SavedModel
from bioimg.training.inference import TypicalityRater
from bioimg.training.typicality import (
    NEIGHBOURS,
    REFERENCE_IMAGES,
    TypicalityScale,
    choose_reference_rows,
    measure_distances,
)
from support import toys


def make_scale(*val_distances: float) -> TypicalityScale:
    return TypicalityScale(torch.zeros(1, 1), np.array(val_distances))


def test_typicality_is_the_share_of_images_at_least_as_far():
    scale = make_scale(0.1, 0.2, 0.3, 0.4)
    rated = scale.rate(np.array([0.0, 0.2, 0.25, 0.9]))
    assert rated.tolist() == [1.0, 0.8, 0.6, 0.2]


def test_false_alarms_are_as_frequent_as_the_typicality_says():
    random = np.random.default_rng(0)
    rated = [make_scale(*random.normal(size=39)).rate(random.normal(size=10)) for _ in range(500)]
    assert np.mean(np.concatenate(rated) <= 0.1) == pytest.approx(0.1, abs=0.02)


@pytest.mark.parametrize(("val_images", "can_tell"), [(0, False), (19, False), (20, True)])
def test_few_validation_images_call_no_image_unlike(val_images, can_tell):
    assert make_scale(*range(val_images)).can_tell_unlike == can_tell


def test_distance_is_that_to_the_nearest_but_four_training_image():
    features, training = torch.randn(6, 8), torch.nn.functional.normalize(torch.randn(30, 8))
    directions = features.numpy() / np.linalg.norm(features.numpy(), axis=1, keepdims=True)
    expected = np.sort(cdist(directions, training.numpy()), axis=1)[:, NEIGHBOURS - 1]
    assert np.allclose(measure_distances(features, training).numpy()[:, 0], expected, atol=1e-5)


def test_reference_has_evenly_spaced_images_of_many():
    is_chosen = np.ones(2 * REFERENCE_IMAGES + 2, bool)
    is_chosen[0] = False
    rows = choose_reference_rows(is_chosen)
    assert len(rows) <= REFERENCE_IMAGES
    assert rows[0] == 1
    assert set(np.diff(rows)) == {3}
    assert choose_reference_rows(np.array([True, False, True])).tolist() == [0, 2]


@pytest.mark.parametrize("freeze", ["none", "features"])
def test_images_of_another_kind_are_less_typical_than_test_images(freeze):
    trial = toys.trial(freeze=freeze)
    dataset = toys.dataset(trial)
    trainer = toys.run(trial)
    metadata = {"classes": list(dataset.images.classes), "normalisation": trainer.normalisation}
    saved = SavedModel(trainer.classifier.model.state_dict(), metadata)
    subsets = np.array(["train"] * len(dataset.images))
    for name in ("val", "test"):
        subsets[getattr(dataset.split, name)] = name
    test_images = select_images(dataset.images, dataset.split.test)
    checks = np.indices((16, 16)).sum(0)[..., None] % 2 * 255
    strange: ImageSet = dataclasses.replace(
        test_images,
        pixels=np.repeat(checks, 3, 2)[None].astype(np.uint8).repeat(len(test_images), 0),
    )
    rater = TypicalityRater(
        saved, trial, dataset.images, list(subsets), torch.float32, torch.device("cpu")
    )
    assert rater.rate(strange).mean() < 0.5 * rater.rate(test_images).mean()
