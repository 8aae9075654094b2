"""`resnext_tiny`: a ResNeXt that trains on two CPU cores and whose weights come with the package.

Importing this module registers it with torchvision, so that
`torchvision.models.get_model("resnext_tiny")` and `get_model_weights("resnext_tiny")` treat it like
any of torchvision's own.
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
    """torchvision's ResNet with a quarter of the planes in every stage: 16, 32, 64, 128.

    The stem and the names of the stages are the same.
    """

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


def _embedded_weights(name: str, description: str) -> Weights:
    file = EMBEDDED_FOLDER / f"resnext_tiny-{name}.safetensors"
    metadata = {
        "num_params": 438_408,
        "min_size": (1, 1),
        "recipe": "experiments/pretrain_textures.py",
        "_docs": description,
    }
    transforms = partial(ImageClassification, crop_size=64, resize_size=64)
    return Weights(url=file.as_uri(), transforms=transforms, meta=metadata)


class ResNeXt_Tiny_Weights(WeightsEnum):
    """Weights without the head, trained on drawn textures by `experiments/pretrain_textures.py`."""

    TEXTURES_V1 = _embedded_weights("TEXTURES_V1", "The plain recipe.")
    TEXTURES_V2 = _embedded_weights(
        "TEXTURES_V2",
        "The longer recipe: cosine with warm-up, label smoothing, erasing, mixup, averaging.",
    )
    DEFAULT = TEXTURES_V2

    def get_state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Read the packaged file. torchvision's arguments (progress, check_hash) aren't used."""
        return load_file(EMBEDDED_FOLDER / Path(self.url).name)


@register_model()
def resnext_tiny(
    *, weights: ResNeXt_Tiny_Weights | None = None, progress: bool = True, **kwargs: Any
) -> ResNet:
    """Build a ResNeXt (arXiv:1611.05431) of four bottlenecks in 8 groups, with 512 features.

    It has 438,408 parameters and the head. The standard stem (7x7 with stride 2, then max-pool)
    makes it fast: at 64 px the first stage sees 16 px. A head is never loaded, since the classes of
    the textures are useless for other images.
    """
    model = NarrowResNet(Bottleneck, [1, 1, 1, 1], **{"groups": 8, "width_per_group": 12, **kwargs})
    weights = ResNeXt_Tiny_Weights.verify(weights)
    if weights is not None:
        new_head = {f"fc.{name}": tensor for name, tensor in model.fc.state_dict().items()}
        model.load_state_dict({**weights.get_state_dict(progress=progress), **new_head})
    return model
