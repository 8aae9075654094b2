"""Models of timm: by name, from a repository of the Hugging Face hub, or from a folder.

timm builds each model without a head (`num_classes=0`). Its own way of loading is used, which fits
position embeddings to the image size. Nothing is unpickled, and no code of a repository is run.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import timm
import torch
from timm.layers import SwiGLUPacked  # pyright: ignore[reportPrivateImportUsage]
from timm.models import get_arch_pretrained_cfgs
from torch import nn

from bioimg.errors import UserError, unknown_value_error
from bioimg.models import hub_files
from bioimg.models.hub_files import Repository
from bioimg.models.model_source import WeightsOrigin
from bioimg.models.pathology import PATHOLOGY_MODELS
from bioimg.models.pretrained_weights import (
    WEIGHTS_FILE_SUFFIXES,
    Normalisation,
    check_weights_file,
    read_weights_file,
)

MISMATCH_LETTERS = 400
"""Letters of torch's message about tensors that don't fit."""
CLASS_ARGUMENTS = {"SwiGLUPacked": SwiGLUPacked, "SiLU": nn.SiLU}
"""Classes that arguments of an architecture can name."""
Pooling = Literal["model", "class", "class+mean"]


class PooledClassifier(nn.Module):
    """A backbone, which gives one vector for each image, and a linear head."""

    def __init__(self, backbone: nn.Module, pooling: Pooling, features: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.pooling: Pooling = pooling
        self.head = nn.Linear(features, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits [B, C] for images [B, 3, H, W]."""
        return self.head(pool_features(self.backbone, self.pooling, images))


def pool_features(backbone: nn.Module, pooling: Pooling, images: torch.Tensor) -> torch.Tensor:
    """Return one vector for each image, [B, F].

    pooling: `model` is what the model itself does. `class` takes the class token. `class+mean`
        puts it beside the mean of the patch tokens, without registers.
    """
    if pooling == "model":
        return backbone(images)
    tokens = backbone.forward_features(images)  # type: ignore[operator]
    class_token = tokens[:, 0]
    if pooling == "class":
        return class_token
    patch_tokens = tokens[:, backbone.num_prefix_tokens :]
    return torch.cat([class_token, patch_tokens.mean(1)], dim=1)


class TimmWeights(NamedTuple):
    """Where weights are, and timm's facts about them."""

    location: Repository | Path
    """A repository of the hub, or a folder."""
    config: Mapping[str, Any]
    """Fields of timm's `PretrainedCfg`: mean, std, license, ..."""


@dataclass(frozen=True, kw_only=True)
class TimmModel:
    """A model that timm builds. It is a `ModelSource`."""

    name: str
    """As in the field `model`."""
    timm_name: str
    """What timm calls it: an architecture, or `local-dir:PATH`."""
    config: Mapping[str, Any]
    """timm's facts about the architecture: fixed_input_size, classifier, and those of weights."""
    weights: Mapping[str, TimmWeights]
    """By the name that the field `weights` has: DEFAULT, or a tag."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    pooling: Pooling = "model"

    def new_model(self, image_size: int) -> nn.Module:
        return self._build(image_size)

    def load_model(self, weights: str, image_size: int) -> nn.Module:
        tensors = dict(read_weights_file(self._find_weights_file(weights)))
        for head in self._head_names():
            tensors.pop(f"{head}.weight", None)
            tensors.pop(f"{head}.bias", None)
        try:
            return self._build(image_size, tensors)
        except (RuntimeError, KeyError, AttributeError) as error:
            raise UserError(
                f"the value of `weights` is {weights!r}, but its tensors must be those of `model` "
                f"{self.name!r}: {' '.join(str(error).split())[:MISMATCH_LETTERS]}"
            ) from error

    def check_weights(self, weights: str) -> None:
        if weights.endswith(WEIGHTS_FILE_SUFFIXES):
            check_weights_file(weights)
        elif weights not in (*self.weights, "none"):
            suffixes = ", ".join(WEIGHTS_FILE_SUFFIXES)
            hint = f"A file ends in {suffixes}. (`model` is {self.name!r}.)"
            raise unknown_value_error("weights", weights, [*self.weights, "none"], hint)

    def fetch_weights(self, weights: str) -> None:
        if weights in self.weights:
            self._find_weights_file(weights)

    def normalisation(self, weights: str) -> Normalisation:
        config = self.weights[weights].config if weights in self.weights else self.config
        return Normalisation(tuple(config["mean"]), tuple(config["std"]))

    def weights_location(self, weights: str) -> str:
        if weights in self.weights:
            return str(self.weights[weights].location)
        return "" if weights == "none" else weights

    def weights_origin(self, weights: str) -> WeightsOrigin:
        if weights not in self.weights:
            return WeightsOrigin(self.weights_location(weights))
        location, config = self.weights[weights]
        if isinstance(location, Repository):
            commit = hub_files.commit_of(self._find_weights_file(weights))
            location = Repository(location.name, commit)
        return WeightsOrigin(
            str(location), config.get("license") or "", config.get("interpolation") or ""
        )

    def pool_blank_images(self, image_size: int) -> torch.Tensor:
        """Return the features of two blank images, on the current default device.

        Raises:
            UserError: the model can't take images of this size.
        """
        try:
            backbone = self._build_backbone(image_size).eval()
            _check_patches(self.name, backbone, image_size)
            with torch.no_grad():
                blank = torch.zeros(2, 3, image_size, image_size)
                return pool_features(backbone, self.pooling, blank)
        except (AssertionError, RuntimeError, ValueError, TypeError) as error:
            if isinstance(error, NotImplementedError | UserError):
                raise
            raise UserError(
                f"the value of `image_size` is {image_size}, but must be one that `model` "
                f"{self.name!r} can take ({str(error).splitlines()[0]}). Choose another."
            ) from error

    def _find_weights_file(self, weights: str) -> Path:
        if weights not in self.weights:
            return Path(weights)
        location = self.weights[weights].location
        field_value = f"the value of `model` is {self.name!r}"
        if isinstance(location, Path):
            return hub_files.find_weights_file(location, field_value)
        return hub_files.fetch_weights_file(location, field_value)

    def _head_names(self) -> tuple[str, ...]:
        names = self.config.get("classifier") or ()
        return (names,) if isinstance(names, str) else tuple(names)

    def _build(
        self, image_size: int, tensors: dict[str, torch.Tensor] | None = None
    ) -> PooledClassifier:
        features = count_features(self.name, image_size)
        backbone = self._build_backbone(image_size, tensors)
        return PooledClassifier(backbone, self.pooling, features)

    def _build_backbone(
        self, image_size: int, tensors: dict[str, torch.Tensor] | None = None
    ) -> nn.Module:
        arguments = {name: _find_class(value) for name, value in self.arguments.items()}
        if self.config.get("fixed_input_size"):
            arguments["img_size"] = image_size
        # timm checks that all tensors fit only if it has no head to replace
        facts = {"num_classes": 0, "label_offset": 0, "custom_load": False}
        # nothing but these tensors can be loaded
        origin = dict.fromkeys(("source", "url", "file", "hf_hub_id"), None)
        return timm.create_model(
            self.timm_name,
            pretrained=tensors is not None,
            pretrained_cfg_overlay={**facts, **origin, "state_dict": tensors},
            num_classes=0,
            **arguments,
        )


@functools.lru_cache(maxsize=64)
def find_timm_model(model: str) -> TimmModel:
    """Return what a name with a prefix, or of a pathology model, stands for.

    Raises:
        UserError: there is no such model, or it can't be read.
    """
    if model in PATHOLOGY_MODELS:
        return _find_pathology_model(model)
    prefix, _, name = model.partition(":")
    if prefix == "timm":
        return _find_named_model(model, name)
    field_value = f"the value of `model` is {model!r}"
    if prefix == "folder":
        folder = Path(name)
        if not (folder / "config.json").is_file():
            raise UserError(
                f"{field_value}, but there is no file {folder / 'config.json'}. A folder of a "
                "model holds timm's config.json and model.safetensors."
            )
        return _read_folder(model, folder, folder)
    repository = Repository.parse(name)
    try:
        config_file = hub_files.fetch_file(repository, "config.json", field_value)
    except FileNotFoundError:
        raise UserError(
            f"{field_value}, but {repository.name} has no file config.json. It isn't a model of "
            "timm: choose another."
        ) from None
    return _read_folder(model, config_file.parent, repository)


def _find_pathology_model(model: str) -> TimmModel:
    facts = PATHOLOGY_MODELS[model]
    config = {
        "mean": facts.mean,
        "std": facts.std,
        "license": facts.licence,
        "fixed_input_size": True,
        "input_size": (3, 224, 224),
        "classifier": "head",
    }
    return TimmModel(
        name=model,
        timm_name=facts.architecture,
        config=config,
        weights={"DEFAULT": TimmWeights(Repository(facts.repository), config)},
        arguments=facts.arguments,
        pooling=facts.pooling,
    )


def _find_named_model(model: str, name: str) -> TimmModel:
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        known = [f"timm:{known_name}" for known_name in timm.list_models()]
        raise unknown_value_error("model", model, known)
    configs = get_arch_pretrained_cfgs(architecture)
    tags = {key.partition(".")[2]: config.to_dict() for key, config in configs.items()}
    if tag and tag not in tags:
        known = [f"timm:{architecture}.{known_tag}" for known_tag in tags]
        raise unknown_value_error("model", model, known)
    default = tags[tag or next(iter(tags))]
    # a tag in the name leaves no choice
    named = {"DEFAULT": default} if tag else {"DEFAULT": default, **tags}
    weights = {}
    for weights_name, config in named.items():
        if repository := config.get("hf_hub_id"):
            weights[weights_name] = TimmWeights(Repository.parse(repository), config)
    return TimmModel(name=model, timm_name=architecture, config=default, weights=weights)


def _read_folder(model: str, folder: Path, location: Repository | Path) -> TimmModel:
    """Return the model that a folder's config.json describes.

    timm reads the file, on a device without memory for tensors.
    """
    timm_name = f"local-dir:{folder}"
    try:
        with torch.device("meta"):
            built = timm.create_model(timm_name, num_classes=0)
    except (RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"the value of `model` is {model!r}, but timm can't build what its config.json "
            f"describes ({str(error).splitlines()[0]}). A model that needs the package "
            "transformers, or code of its own, can't be used."
        ) from error
    config = cast(dict[str, Any], built.pretrained_cfg)
    return TimmModel(
        name=model,
        timm_name=timm_name,
        config=config,
        weights={"DEFAULT": TimmWeights(location, config)},
    )


@functools.lru_cache(maxsize=64)
def count_features(model: str, image_size: int) -> int:
    """Return how many numbers a model gives for an image of this size, after its pooling.

    Two blank images pass through it, on a device without memory for tensors where that works.

    Raises:
        UserError: it can't take images of this size, or doesn't give one vector for each.
    """
    source = find_timm_model(model)
    try:
        with torch.device("meta"):
            output = source.pool_blank_images(image_size)
    except NotImplementedError:
        output = source.pool_blank_images(image_size)
    if output.ndim != 2:
        raise UserError(
            f"the value of `model` is {model!r}, but must give one vector for an image, and it "
            f"gives {list(output.shape[1:])} numbers. Choose a model for classification."
        )
    return output.shape[1]


def _check_patches(model: str, backbone: nn.Module, image_size: int) -> None:
    """Check that patches fill the image, since the rest of it would be cut off in silence."""
    patch_size = getattr(getattr(backbone, "patch_embed", None), "patch_size", None)
    patch = patch_size[0] if isinstance(patch_size, tuple) else patch_size
    if patch and image_size % patch:
        smaller = image_size // patch * patch
        sizes = " or ".join(str(size) for size in (smaller, smaller + patch) if size)
        raise UserError(
            f"the value of `image_size` is {image_size}, but must be a multiple of {patch}, the "
            f"size of the patches of `model` {model!r}. Use {sizes}."
        )


def _find_class(value: Any) -> Any:
    return CLASS_ARGUMENTS.get(value, value) if isinstance(value, str) else value
