"""Which weights a grid compares, where they are named and where they aren't."""

import pytest

from bioimg.config import TrialConfig
from bioimg.experiment import Experiment
from bioimg.experiment_settings import apply_settings

V1_OR_V2 = ("TEXTURES_V1", "TEXTURES_V2")
EXPERIMENT = Experiment(
    name="demo", base=TrialConfig(model="resnext_tiny"), axes={"weights": V1_OR_V2}
)


def compared_weights(**settings: object) -> set[tuple[str, str]]:
    """Return model and weights of each trial."""
    experiment, _ = apply_settings(EXPERIMENT, settings)
    return {(trial.model, trial.weights) for trial in experiment.trials()}


@pytest.mark.parametrize("model", ["resnet50", ["resnet50", "timm:vit_tiny_patch16_224"]])
def test_other_models_have_their_own_weights(model):
    models = [model] if isinstance(model, str) else model
    assert compared_weights(model=model) == {(name, "DEFAULT") for name in models}


def test_own_model_keeps_the_weights_of_the_experiment():
    expected = {("resnext_tiny", weights) for weights in V1_OR_V2}
    assert compared_weights() == compared_weights(model="resnext_tiny") == expected


TUNED = Experiment(
    name="demo",
    base=TrialConfig(model="resnext_tiny"),
    axes={"learning_rate": (6e-4, 2e-3)},
    tune=("learning_rate",),
)


@pytest.mark.parametrize(
    ("experiment", "settings", "rates"),
    [
        (TUNED, {}, (6e-4, 2e-3)),
        (TUNED, {"model": "resnext_tiny"}, (6e-4, 2e-3)),
        (TUNED, {"model": "resnet50"}, (3e-5, 1e-4, 3e-4, 1e-3)),
        (TUNED, {"model": "resnet50", "learning_rate": [1e-5, 1e-4]}, (1e-5, 1e-4)),
        (TUNED, {"model": "resnet50", "learning_rate": 1e-5}, (1e-5,)),
        (EXPERIMENT, {"model": "resnet50"}, (1e-4,)),
    ],
)
def test_other_models_are_tuned_over_rates_for_transformers_and_cnns(experiment, settings, rates):
    trials = apply_settings(experiment, settings)[0].trials()
    assert tuple(dict.fromkeys(trial.learning_rate for trial in trials)) == rates


def test_named_weights_are_used_with_every_model():
    named = compared_weights(model=["resnet18", "resnet50"], weights=["IMAGENET1K_V1", "none"])
    assert len(named) == 4
    assert compared_weights(model="resnet50", weights=V1_OR_V2) == {
        ("resnet50", weights) for weights in V1_OR_V2
    }
