"""Temperature scaling: confidence that is as high as predictions are often right."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from bioimg.results.statistics.temperature import fit_temperature, scale_probabilities


def draw_outputs(images: int, sharpness: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draw labels from known probabilities. Return these, sharpened, and the labels."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 2, (images, 3))
    true = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = (true.cumsum(1) < random.random((images, 1))).sum(1)
    return scale_probabilities(true, 1 / sharpness), labels


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 3.0])
def test_temperature_undoes_what_made_a_model_too_sure_or_too_unsure(sharpness):
    probabilities, labels = draw_outputs(20_000, sharpness)
    assert fit_temperature(probabilities, labels) == pytest.approx(sharpness, rel=0.05)


def test_temperature_has_the_lowest_cross_entropy_of_all():
    probabilities, labels = draw_outputs(5_000, sharpness=2.0)
    logits, targets = torch.from_numpy(np.log(probabilities)), torch.from_numpy(labels)
    grid = np.geomspace(0.5, 8, 400)
    losses = [F.cross_entropy(logits / temperature, targets).item() for temperature in grid]
    assert fit_temperature(probabilities, labels) == pytest.approx(
        grid[np.argmin(losses)], rel=0.02
    )


def test_scaling_is_softmax_of_divided_logits_and_keeps_the_order():
    logits = torch.randn(50, 4, dtype=torch.float64)
    scaled = scale_probabilities(logits.softmax(1).numpy(), 2.5)
    np.testing.assert_allclose(scaled, (logits / 2.5).softmax(1).numpy(), atol=1e-9)
    assert (scaled.argsort(1) == logits.numpy().argsort(1)).all()


def test_few_images_that_are_all_right_make_a_model_certain_of_nothing():
    probabilities = np.tile([0.7, 0.2, 0.1], (10, 1))
    temperature = fit_temperature(probabilities, np.zeros(10, int))
    assert scale_probabilities(probabilities, temperature).max() < 0.9


def test_probabilities_of_0_and_1_have_a_finite_temperature():
    probabilities = np.eye(3)[[0, 1, 2, 0]]
    temperature = fit_temperature(probabilities, np.array([0, 1, 2, 1]))
    assert np.isfinite(scale_probabilities(probabilities, temperature)).all()
