"""Each family of models of timm trains, resumes to the last bit, and predicts what was recorded."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from bioimg.config import TrialConfig
from bioimg.data.image_set import ImageSet
from bioimg.models.checked_safetensors import SavedModel
from bioimg.training.inference import TrialPredictor
from bioimg.training.loop import train
from bioimg.training.trial_trainer import TrialTrainer
from support import toys
from support.timm_folders import FAMILY_SIZES, save_timm_folder


def start(trial: TrialConfig, images: ImageSet, epochs: int) -> TrialTrainer:
    """Return the trainer of a trial after its first epochs."""
    trainer = toys.run(trial, images)
    for epoch in train(trainer):
        if epoch.epoch == epochs:
            break
    return trainer


@pytest.mark.parametrize(
    ("architecture", "size"),
    [
        pytest.param(
            name, size, marks=[] if name == "vit_tiny_patch16_224" else pytest.mark.nightly
        )
        for name, size in FAMILY_SIZES.items()
    ],
)
@pytest.mark.parametrize("freeze", ["none", "features"])
def test_family_trains_resumes_and_predicts(architecture, size, freeze, tmp_path: Path):
    save_timm_folder(tmp_path, architecture, size)
    images = toys.images(per_class=7, classes=2, size=size)
    trial = toys.trial(
        model=f"folder:{tmp_path}",
        weights="DEFAULT",
        freeze=freeze,
        image_size=size,
        epochs=2,
        batch_size=4,
        learning_rate=1e-4,
    )
    at_once = start(trial, images, epochs=2)
    interrupted = start(trial, images, epochs=1)
    resumed = toys.run(trial, images)
    resumed.load_state_dict(copy.deepcopy(interrupted.state_dict()))
    assert [epoch.epoch for epoch in train(resumed)] == [2]
    expected, state = at_once.trained_module.state_dict(), resumed.trained_module.state_dict()
    assert all(torch.equal(state[name], expected[name]) for name in expected)
    assert np.isfinite([epoch.train_loss for epoch in resumed.history]).all()

    every_image = np.arange(len(images))
    recorded = resumed.predict_logits(every_image).double().softmax(1).numpy()
    saved = SavedModel(
        resumed.classifier.model.state_dict(),
        {"classes": images.classes, "normalisation": resumed.normalisation},
    )
    predictor = TrialPredictor(saved, trial, torch.float32, torch.device("cpu"))
    predicted = predictor.predict(images)
    assert np.allclose(predicted, recorded, atol=1e-5)
