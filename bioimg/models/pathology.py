"""Models that were trained on pathology slides, by short names.

Each fact is from the model's card, whose address is that of its repository:
https://huggingface.co/REPOSITORY. Most repositories ask for an account and for the acceptance of
their conditions (`gated`). The weights aren't part of this project. An architecture that isn't
exactly that of the weights can't load them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BIOPTIMUS_MEAN, BIOPTIMUS_STD = (0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517)
LUNIT_MEAN = (0.70322989, 0.53606487, 0.66096631)
LUNIT_STD = (0.21716536, 0.26081574, 0.20723464)

GATED_MLP = MappingProxyType({"mlp_layer": "SwiGLUPacked", "act_layer": "SiLU"})
"""A transformer's MLP with a gate. timm's config.json can't name these classes."""


@dataclass(frozen=True, kw_only=True)
class PathologyModel:
    """A model's repository, its architecture in timm, and how its authors use it."""

    repository: str
    architecture: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the architecture; `mlp_layer` and `act_layer` name classes."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pooling: Literal["class", "class+mean"] = "class"
    """The class token, or this beside the mean of all patch tokens."""
    features: int
    """Length of a feature vector."""
    pixel_size: str
    """Micrometres per pixel of the images that it was trained on."""
    licence: str
    gated: bool = True


PATHOLOGY_MODELS: Mapping[str, PathologyModel] = {
    "uni": PathologyModel(
        repository="MahmoodLab/UNI",
        architecture="vit_large_patch16_224",
        arguments={"init_values": 1e-5},
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        features=1024,
        pixel_size="0.5",
        licence="cc-by-nc-nd-4.0",
    ),
    "uni2-h": PathologyModel(
        repository="MahmoodLab/UNI2-h",
        architecture="vit_giant_patch14_224",
        arguments={
            **GATED_MLP,
            "depth": 24,
            "embed_dim": 1536,
            "mlp_ratio": 2.66667 * 2,
            "init_values": 1e-5,
            "num_heads": 24,
            "no_embed_class": True,
            "reg_tokens": 8,
        },
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        features=1536,
        pixel_size="0.5",
        licence="cc-by-nc-nd-4.0",
    ),
    "virchow": PathologyModel(
        repository="paige-ai/Virchow",
        architecture="vit_huge_patch14_224",
        arguments={**GATED_MLP, "init_values": 1e-5, "mlp_ratio": 5.3375},
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        pooling="class+mean",
        features=2560,
        pixel_size="0.5",
        licence="apache-2.0",
    ),
    "virchow2": PathologyModel(
        repository="paige-ai/Virchow2",
        architecture="vit_huge_patch14_224",
        arguments={**GATED_MLP, "init_values": 1e-5, "mlp_ratio": 5.3375, "reg_tokens": 4},
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        pooling="class+mean",
        features=2560,
        pixel_size="0.25 to 2",
        licence="cc-by-nc-nd-4.0",
    ),
    "h-optimus-0": PathologyModel(
        repository="bioptimus/H-optimus-0",
        architecture="vit_giant_patch14_reg4_dinov2",
        arguments={"init_values": 1e-5},
        mean=BIOPTIMUS_MEAN,
        std=BIOPTIMUS_STD,
        features=1536,
        pixel_size="0.5",
        licence="apache-2.0",
    ),
    "h-optimus-1": PathologyModel(
        repository="bioptimus/H-optimus-1",
        architecture="vit_giant_patch14_reg4_dinov2",
        arguments={"init_values": 1e-5},
        mean=BIOPTIMUS_MEAN,
        std=BIOPTIMUS_STD,
        features=1536,
        pixel_size="0.5",
        licence="cc-by-nc-nd-4.0",
    ),
    "h0-mini": PathologyModel(
        repository="bioptimus/H0-mini",
        architecture="vit_base_patch14_reg4_dinov2",
        arguments={**GATED_MLP, "init_values": 1e-5, "mlp_ratio": 5.33334},
        mean=BIOPTIMUS_MEAN,
        std=BIOPTIMUS_STD,
        pooling="class+mean",
        features=1536,
        pixel_size="0.5",
        licence="cc-by-nc-nd-4.0",
    ),
    "gigapath": PathologyModel(
        repository="prov-gigapath/prov-gigapath",
        architecture="vit_giant_patch14_dinov2",
        arguments={"patch_size": 16, "init_values": 1e-5},
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        features=1536,
        pixel_size="0.5",
        licence="apache-2.0",
    ),
    "lunit-vits8": PathologyModel(
        repository="1aurent/vit_small_patch8_224.lunit_dino",
        architecture="vit_small_patch8_224",
        mean=LUNIT_MEAN,
        std=LUNIT_STD,
        features=384,
        pixel_size="0.25 to 0.5",
        licence="lunit-non-commercial",
        gated=False,
    ),
    "kaiko": PathologyModel(
        repository="1aurent/vit_small_patch16_224.kaiko_ai_towards_large_pathology_fms",
        architecture="vit_small_patch16_224",
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        features=384,
        pixel_size="0.25 to 2",
        licence="kaiko-non-commercial",
        gated=False,
    ),
}
