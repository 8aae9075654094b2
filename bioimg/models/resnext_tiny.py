"""`resnext_tiny`: a ResNeXt small enough to train on two CPU cores and to include its weights in the package.

Importing this module registers it with torchvision, so that `torchvision.models.get_model("resnext_tiny")` and
`get_model_weights("resnext_tiny")` treat it like any of torchvision's own.
"""

from functools import partial
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import Weights, WeightsEnum
from torchvision.models._api import register_model
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet
from torchvision.transforms._presets import ImageClassification

EMBEDDED_FOLDER = Path(__file__).parent / "embedded"


class NarrowResNet(ResNet):
    """torchvision's ResNet with a quarter of the planes in every stage: 16, 32, 64, 128. Stem and stage names are the same."""

    def __init__(
        self,
        block: type[BasicBlock | Bottleneck],
        layers: list[int],
        num_classes: int = 1000,
        **kwargs: Any,
    ) -> None:
        super().__init__(block, layers, num_classes, **kwargs)
        self.fc = nn.Linear(self.inplanes, num_classes)

    def _make_layer(
        self, block: type[BasicBlock | Bottleneck], planes: int, *args: Any, **kwargs: Any
    ) -> nn.Sequential:
        return super()._make_layer(block, planes // 4, *args, **kwargs)


def _embedded_weights(name: str, recipe: str) -> Weights:
    file = EMBEDDED_FOLDER / f"resnext_tiny-{name}.safetensors"
    meta = {
        "num_params": 438_408,
        "min_size": (1, 1),
        "recipe": "experiments/pretrain_textures.py",
        "_docs": recipe,
    }
    return Weights(
        url=file.as_uri(),
        transforms=partial(ImageClassification, crop_size=64, resize_size=64),
        meta=meta,
    )


class ResNeXt_Tiny_Weights(WeightsEnum):
    """Weights without the head, trained on textures that a program drew (`experiments/pretrain_textures.py`)."""

    TEXTURES_V1 = _embedded_weights("TEXTURES_V1", "The plain recipe.")
    TEXTURES_V2 = _embedded_weights(
        "TEXTURES_V2",
        "The longer recipe: cosine with warm-up, label smoothing, erasing, mixup, averaged weights.",
    )
    DEFAULT = TEXTURES_V2

    def get_state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Read the packaged file; the arguments are torchvision's (progress, check_hash) and aren't used."""
        return load_file(EMBEDDED_FOLDER / Path(self.url).name)


@register_model()
def resnext_tiny(
    *, weights: ResNeXt_Tiny_Weights | None = None, progress: bool = True, **kwargs: Any
) -> ResNet:
    """ResNeXt (arXiv:1611.05431) of four bottlenecks in 8 groups: 438,408 parameters and the head, 512 features.

    The stem is the standard one (7x7 with stride 2, then max-pool), which makes it fast: at 64 px the first stage sees 16 px.
    The head is never loaded, since the classes of the textures are of no use.
    """
    model = NarrowResNet(Bottleneck, [1, 1, 1, 1], **{"groups": 8, "width_per_group": 12, **kwargs})
    weights = ResNeXt_Tiny_Weights.verify(weights)
    if weights is not None:
        state = {
            **weights.get_state_dict(progress=progress),
            **{f"fc.{k}": v for k, v in model.fc.state_dict().items()},
        }
        model.load_state_dict(state)
    return model
