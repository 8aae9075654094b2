"""What a name in the field `model` stands for: an architecture, and where its weights come from.

| name | meaning |
|---|---|
| `resnet50` | a classifier of torchvision |
| `timm:NAME`, `timm:NAME.TAG` | a model of timm, with the weights of this or its first tag |
| `hub:OWNER/NAME`, `hub:OWNER/NAME@REVISION` | the same, in a repository of the Hugging Face hub |
| `folder:PATH` | the same in a folder: timm's config.json and a file of weights |
| `uni`, `virchow2`, ... | a pathology model, see `bioimg.models.pathology` |
"""

import functools
from typing import NamedTuple, Protocol

from torch import nn

from bioimg.errors import unknown_value_error
from bioimg.models.pathology import PATHOLOGY_MODELS
from bioimg.models.pretrained_weights import Normalisation

TIMM_PREFIXES = ("timm:", "hub:", "folder:")


class WeightsOrigin(NamedTuple):
    """Where weights come from, and what their publisher says; empty where nothing says so."""

    source: str
    licence: str = ""
    interpolation: str = ""
    """How images were resized for them, such as bicubic."""


class ModelSource(Protocol):
    """Builds one architecture, with random weights or with pretrained ones."""

    def new_model(self, image_size: int) -> nn.Module:
        """Return the model with random weights. Its last linear layer is a head to be replaced.

        Raises:
            UserError: the model can't take images of this size.
        """
        ...

    def load_model(self, weights: str, image_size: int) -> nn.Module:
        """Return the model with the weights of this name, which isn't `none`.

        Raises:
            UserError: as `new_model`; or the weights aren't available, can't be read, or aren't
                exactly those of the model.
        """
        ...

    def check_weights(self, weights: str) -> None:
        """Check quickly that there are weights of this name.

        Raises:
            UserError: there are none. It lists those that there are.
        """
        ...

    def fetch_weights(self, weights: str) -> None:
        """Download weights of a name unless they are on this machine. Others are left alone.

        Raises:
            UserError: they can't be had. It says what to do about it.
        """
        ...

    def normalisation(self, weights: str) -> Normalisation:
        """Return the normalisation of images that the weights were trained with."""
        ...

    def weights_location(self, weights: str) -> str:
        """Return the address that weights are downloaded from, or their file. It isn't read.

        A repository of the Hugging Face hub is `hub:OWNER/NAME@REVISION`. It is empty for `none`.
        """
        ...

    def weights_origin(self, weights: str) -> WeightsOrigin:
        """Return where the weights come from, once they are on this machine."""
        ...


@functools.lru_cache(maxsize=64)
def find_model_source(model: str) -> ModelSource:
    """Return the source of a model.

    Raises:
        UserError: there is no such model. It names the closest one.
    """
    if model.startswith(TIMM_PREFIXES) or model in PATHOLOGY_MODELS:
        # timm takes seconds to import, and most experiments don't use it
        from bioimg.models.timm_models import find_timm_model

        return find_timm_model(model)
    from bioimg.models.torchvision_models import TorchvisionModel, available_models

    if model not in available_models():
        hint = "Models of timm are timm:NAME, hub:OWNER/NAME or folder:PATH."
        raise unknown_value_error("model", model, [*available_models(), *PATHOLOGY_MODELS], hint)
    return TorchvisionModel(model)
