"""The classifiers of torchvision, and those that others have registered with it."""

import functools
from dataclasses import dataclass
from pathlib import Path

from torch import nn
from torchvision import models

import bioimg.models.resnext_tiny  # noqa: F401  (registers resnext_tiny)
from bioimg.models.model_parts import last_linear_layer
from bioimg.models.model_source import WeightsOrigin
from bioimg.models.pretrained_weights import (
    Normalisation,
    load_weights,
    weights_entry,
    weights_normalisation,
)
from bioimg.models.state_dicts import load_backbone


@dataclass(frozen=True)
class TorchvisionModel:
    """A classifier that torchvision knows by name. It is a `ModelSource`."""

    name: str

    def new_model(self, image_size: int) -> nn.Module:
        return models.get_model(self.name, weights=None)

    def load_model(self, weights: str, image_size: int) -> nn.Module:
        model = self.new_model(image_size)
        head_name = last_linear_layer(model, self.name)
        load_backbone(model, load_weights(self.name, weights), head_name, weights)
        return model

    def check_weights(self, weights: str) -> None:
        weights_entry(self.name, weights)

    def fetch_weights(self, weights: str) -> None:
        if weights_entry(self.name, weights):
            load_weights(self.name, weights)

    def normalisation(self, weights: str) -> Normalisation:
        return weights_normalisation(self.name, weights)

    def weights_location(self, weights: str) -> str:
        entry = weights_entry(self.name, weights)
        if entry:
            return entry.url
        return "" if weights == "none" else weights

    def weights_origin(self, weights: str) -> WeightsOrigin:
        entry = weights_entry(self.name, weights)
        location = self.weights_location(weights)
        if entry is None:
            return WeightsOrigin(location)
        # a file of this package has another path on each machine
        source = Path(location).name if location.startswith("file:") else location
        interpolation = entry.transforms().interpolation.value
        return WeightsOrigin(source, entry.meta.get("license", ""), interpolation)


@functools.cache
def available_models() -> list[str]:
    """List torchvision's classifiers, and all models that others have registered with it."""
    registered = [name for name in models.list_models() if not _is_from_torchvision(name)]
    return [*models.list_models(module=models), *registered]


def _is_from_torchvision(model_name: str) -> bool:
    return models.get_model_builder(model_name).__module__.startswith("torchvision.")
