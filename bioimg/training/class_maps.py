"""Grad-CAM: where in an image a model finds what raises the score of a class.

The maps of the last spatial layer are summed with the mean gradients of the score as weights
(Selvaraju et al. 2017, Grad-CAM: visual explanations from deep networks via gradient-based
localization, ICCV). They explain no decision, and maps of untrained models can look as convincing
(Adebayo et al. 2018, Sanity checks for saliency maps, NeurIPS).
"""

import functools
import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import nn

from bioimg.config import TrialConfig
from bioimg.data.image_set import ImageSet
from bioimg.errors import UserError
from bioimg.models.checked_safetensors import SavedModel
from bioimg.models.classifier import Classifier
from bioimg.models.model_parts import block_names
from bioimg.models.pretrained_weights import Normalisation
from bioimg.training.batches import Batch
from bioimg.training.image_batches import ImageBatches
from bioimg.training.inference import load_classifier

MIN_GRID = 4
"""Rows and columns that a layer's maps need: those of fewer say little about where."""
BATCH_IMAGES = 16
OVERLAY_STRENGTH = 0.6
"""How much of the colour a pixel of an overlay has where the map is strongest."""


class ClassMapper:
    """A trained model that says where it finds what raises the score of a class.

    Raises:
        UserError: it has no layer whose outputs form a grid over the image.
    """

    def __init__(self, saved: SavedModel, trial: TrialConfig, device: torch.device) -> None:
        classifier = load_classifier(saved, trial)
        self._grid = expose_grid(classifier, trial)
        self._model = classifier.model.eval().to(device)
        self._device = device
        normalisation = Normalisation(*saved.metadata["normalisation"])
        self._open = functools.partial(
            ImageBatches, config=trial.dataset_config, normalisation=normalisation, device=device
        )

    def iter_maps(self, images: ImageSet, labels: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the map of each image, float32 [S, S], from 0 to 1, where it is strongest.

        labels: the class of each image whose score is explained, [N].
        """
        from captum.attr import LayerAttribution, LayerGradCam

        source = self._open(images)
        grad_cam = LayerGradCam(self._model, self._grid)
        for start in range(0, len(images), BATCH_IMAGES):
            rows = np.arange(start, min(start + BATCH_IMAGES, len(images)))
            inputs = source.load_batch(Batch(rows, np.zeros_like(rows))).requires_grad_()
            targets = torch.from_numpy(labels[rows]).to(self._device)
            coarse = grad_cam.attribute(inputs, targets, relu_attributions=True)
            assert isinstance(coarse, torch.Tensor)
            size = (inputs.shape[2], inputs.shape[3])
            maps = LayerAttribution.interpolate(coarse.detach(), size, "bilinear")[:, 0]
            highest = maps.amax(dim=(1, 2), keepdim=True)
            # a map of zeros stays one
            yield from torch.where(highest > 0, maps / highest, 0).cpu().numpy()


def draw_overlay(pixels: np.ndarray, class_map: np.ndarray) -> np.ndarray:
    """Return an image with its map in colour over it: uint8 [S, S, 3].

    Args:
        pixels: uint8 [S, S, 3].
        class_map: [S, S], from 0 to 1.
    """
    import matplotlib as mpl

    colours = 255 * mpl.colormaps["inferno"](class_map)[..., :3]
    strength = OVERLAY_STRENGTH * class_map[..., None]
    return (pixels * (1 - strength) + colours * strength).round().astype(np.uint8)


class GridLayer(nn.Module):
    """A layer whose outputs pass through `grid` as maps [B, C, G, G], and come out unchanged."""

    def __init__(self, layer: nn.Module, prefix_tokens: int) -> None:
        super().__init__()
        self.layer = layer
        self.grid = nn.Identity()
        self._prefix_tokens = prefix_tokens

    def forward(self, *args: torch.Tensor, **kwargs: object) -> torch.Tensor:
        """Return the outputs of the layer."""
        outputs = self.layer(*args, **kwargs)
        if outputs.ndim == 3:
            prefix, patches = outputs.tensor_split([self._prefix_tokens], dim=1)
            side = math.isqrt(patches.shape[1])
            maps = self.grid(patches.transpose(1, 2).unflatten(2, (side, side)))
            return torch.cat([prefix, maps.flatten(2).transpose(1, 2)], dim=1)
        if _has_channels_last(outputs.shape):
            return self.grid(outputs.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        # a copy, since some models change the outputs of this layer in place
        return self.grid(outputs).clone()


def expose_grid(classifier: Classifier, trial: TrialConfig) -> nn.Module:
    """Change a model so that a module passes its last maps on, [B, C, G, G]. Return that module.

    What the model computes stays the same.

    Raises:
        UserError: the model has no such maps.
    """
    name = _find_map_layer(classifier, trial)
    wrapped = GridLayer(classifier.model.get_submodule(name), _prefix_tokens(classifier.model))
    classifier.model.set_submodule(name, wrapped)
    return wrapped.grid


def _find_map_layer(classifier: Classifier, trial: TrialConfig) -> str:
    """Return the name of the last layer whose outputs form a grid over the image.

    Of transformers with tokens it is the first norm of the last block: what comes later than its
    attention doesn't reach a class token.
    """
    model = classifier.model
    blocks = block_names(model, classifier.head_name)
    norms = [f"{blocks[-1]}.{name}" for name in ("norm1", "ln_1")]
    inside = tuple(f"{block}." for block in blocks)
    found = []
    for name, shape in _record_shapes(model, trial.image_size):
        if len(shape) == 3 and name in norms:
            side = math.isqrt(max(0, shape[1] - _prefix_tokens(model)))
            if side >= MIN_GRID and side**2 == shape[1] - _prefix_tokens(model):
                return name
        elif len(shape) == 4 and not name.startswith(inside) and _grid_side(shape) >= MIN_GRID:
            found.append(name)
    if not found:
        raise UserError(
            f"the value of `explain` can't be used with `model` {trial.model!r} at `image_size` "
            f"{trial.image_size}: none of its layers has maps of at least {MIN_GRID} x {MIN_GRID}. "
            "Leave it out, or explain a trial of another model."
        )
    return found[-1]


def _record_shapes(model: nn.Module, image_size: int) -> list[tuple[str, torch.Size]]:
    """Return the shapes of the outputs of each layer for two images, in the order of their end."""
    shapes: list[tuple[str, torch.Size]] = []

    def record(name: str, outputs: object) -> None:
        if isinstance(outputs, torch.Tensor):
            shapes.append((name, outputs.shape))

    handles = []
    for name, module in model.named_modules():
        if name:
            hook = functools.partial(lambda name, _, __, outputs: record(name, outputs), name)
            handles.append(module.register_forward_hook(hook))
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(2, 3, image_size, image_size))
    finally:
        for handle in handles:
            handle.remove()
    return shapes


def _prefix_tokens(model: nn.Module) -> int:
    """Return how many tokens, such as a class token, stand before those of the image."""
    for module in model.modules():
        tokens = getattr(module, "num_prefix_tokens", None)
        if isinstance(tokens, int):
            return tokens
    # torchvision's vision transformers have one
    return int(hasattr(model, "class_token"))


def _has_channels_last(shape: Sequence[int]) -> bool:
    return shape[1] == shape[2] != shape[3]


def _grid_side(shape: Sequence[int]) -> int:
    """Return the side of a square grid [B, C, G, G] or [B, G, G, C]; 0 if it is none."""
    if _has_channels_last(shape):
        return shape[1]
    return shape[2] if shape[2] == shape[3] else 0
