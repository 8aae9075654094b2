"""Train the embedded weights of `resnext_tiny` on textures that this file draws."""

import copy
import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from PIL import Image
from safetensors.torch import save_file
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms import v2

from bioimg.data.phantom import phantom
from bioimg.model.tiny import EMBEDDED, ResNeXt_Tiny_Weights, resnext_tiny

SIDE = 64
NORMALISE = v2.Normalize(*(getattr(ResNeXt_Tiny_Weights.DEFAULT.transforms(), k) for k in ("mean", "std")))

Kernel = Callable[[Tensor, Tensor, Tensor], Tensor]
"""What is repeated all over the image, from coordinates along and across its axis and its radius, in pixels."""


def soft(distance: Tensor) -> Tensor:
    """One where the distance from an outline is negative (inside), zero outside, over one pixel."""
    return (0.5 - distance).clamp(0, 1)


def gauss(u: Tensor, v: Tensor, r: Tensor) -> Tensor:
    return torch.exp(-(u**2 + v**2) / (2 * r**2))


def hat(u: Tensor, v: Tensor, r: Tensor) -> Tensor:
    return gauss(u, v, r) - gauss(u, v, 1.6 * r) / 1.6**2


SHAPES: tuple[Kernel, ...] = (
    lambda u, v, r: soft(torch.hypot(u, v) - r),
    lambda u, v, r: soft((torch.hypot(u, v) - 1.3 * r).abs() - 0.7),
    lambda u, v, r: soft((torch.hypot(u / 2.2, v) - 0.75 * r)),
    lambda u, v, r: soft(torch.maximum(u.abs() - 4 * r, v.abs() - 0.35 * r)),
    lambda u, v, r: soft(torch.maximum(u.abs(), v.abs()) - 0.9 * r),
    lambda u, v, r: soft(torch.minimum(torch.maximum(u.abs() / 4, v.abs()), torch.maximum(u.abs(), v.abs() / 4)) - 0.4 * r),
)
"""Scattered: discs, rings, ellipses, rods, squares, crosses."""

WAVES: tuple[tuple[Kernel, Callable[[Tensor, Tensor], Tensor]], ...] = (
    (hat, lambda x, level: torch.sigmoid(4 * (x - level))),
    (hat, lambda x, level: torch.exp(-3 * (x - level).abs())),
    (lambda u, v, r: gauss(u / 3, v, r) * torch.cos(2.2 * v / r), lambda x, level: torch.sigmoid(4 * (x - level))),
    (lambda u, v, r: gauss(u / 2, v / 2, r), lambda x, level: torch.sigmoid(1.5 * x) * (1 - 0.4 * level)),
)
"""Of noise: blots, nets, stripes, clouds."""

CLASSES = (len(SHAPES) + len(WAVES)) * 6
"""Each in three sizes and two densities."""


def uniform(rng: torch.Generator, n: int, low: float, high: float) -> Tensor:
    return torch.rand(n, 1, 1, generator=rng) * (high - low) + low


def textures(labels: Tensor, rng: torch.Generator) -> Tensor:
    """Float32 [N, 3, SIDE, SIDE] in 0..1: each image shows the pattern of its label and, fainter, that of the label before."""
    kinds = labels.div(6, rounding_mode="floor")
    pattern = torch.empty(len(labels), SIDE, SIDE)
    for kind in kinds.unique().tolist():
        pattern[kinds == kind] = draw(kind, labels[kinds == kind] % 6, rng)
    return colour(pattern, pattern.roll(1, 0), rng)


def draw(kind: int, variant: Tensor, rng: torch.Generator) -> Tensor:
    """The bare patterns of one kind, [N, SIDE, SIDE] in 0..1."""
    n = len(variant)
    radius = 1.5 * 1.75 ** (variant // 2)[:, None, None] * uniform(rng, n, 0.85, 1.18)
    dense = (variant % 2)[:, None, None]
    axis = torch.fft.fftfreq(SIDE) * SIDE
    turn = uniform(rng, n, 0, math.pi)
    u = axis * turn.cos() + axis[:, None] * turn.sin()
    v = axis * turn.sin() - axis[:, None] * turn.cos()
    if kind < len(SHAPES):
        kernel = SHAPES[kind](u, v, radius)
        rate = torch.where(dense == 1, 0.55, 0.18) * uniform(rng, n, 0.8, 1.25) / kernel.sum((1, 2), keepdim=True)
        seeds = (torch.rand(n, SIDE, SIDE, generator=rng) < rate) * (0.4 + 0.6 * torch.rand(n, SIDE, SIDE, generator=rng))
        return convolve(seeds, kernel).clamp(0, 1)
    wave, response = WAVES[kind - len(SHAPES)]
    field = convolve(torch.randn(n, SIDE, SIDE, generator=rng), wave(u, v, radius))
    return response(field / field.std((1, 2), keepdim=True), 0.9 - 0.9 * dense)


def convolve(seeds: Tensor, kernel: Tensor) -> Tensor:
    """On a torus, the kernel's middle being its element [0, 0]."""
    return torch.fft.irfft2(torch.fft.rfft2(seeds) * torch.fft.rfft2(kernel))


def colour(first: Tensor, second: Tensor, rng: torch.Generator) -> Tensor:
    """Two patterns in inks of any hue on paper with clouds, or its negative."""
    n = len(first)
    cloud = F.interpolate(torch.randn(n, 1, 6, 6, generator=rng), size=(SIDE, SIDE), mode="bicubic").sigmoid()
    inks = torch.rand(3, n, 3, 1, 1, generator=rng) ** 1.5 * torch.tensor([2.0, 0.9, 0.5]).view(3, 1, 1, 1, 1)
    density = inks[0] * first[:, None] + inks[1] * second[:, None] + inks[2] * cloud
    paper = 1 - 0.3 * torch.rand(n, 3, 1, 1, generator=rng)
    image = paper * torch.exp(-density) + 0.03 * torch.randn(n, 3, SIDE, SIDE, generator=rng)
    negative = torch.rand(n, 1, 1, 1, generator=rng) < 0.2
    return torch.where(negative, 1 - image, image).clamp(0, 1)


def statistics(images: Tensor) -> Tensor:
    """Mean and covariance of the colours of each image, [N, 9]."""
    colours = images.flatten(2)
    centred = colours - colours.mean(2, keepdim=True)
    covariance = centred @ centred.mT / centred.shape[2]
    row, column = torch.triu_indices(3, 3)
    return torch.cat([colours.mean(2), covariance[:, row, column]], dim=1)


@dataclass(frozen=True)
class Recipe:
    """How to train. The defaults are the plain recipe."""

    steps: int = 1200
    batch_size: int = 64
    second: float = 0.3
    colours: float = 1.0
    learning_rate: float = 2e-3
    warmup: int = 0
    cosine: bool = False
    label_smoothing: float = 0.0
    mixup: bool = False
    erasing: float = 0.0
    average: float = 0.0
    """Decay of the moving average of the weights; zero keeps the last ones."""

    def rate(self, step: int) -> float:
        """The factor on the learning rate."""
        rise = min(1.0, (step + 1) / max(1, self.warmup))
        return rise * (0.5 + 0.5 * math.cos(math.pi * step / self.steps) if self.cosine else 1.0)


RECIPES = {
    "TEXTURES_V1": Recipe(),
    "TEXTURES_V2": Recipe(
        steps=2000, learning_rate=3e-3, warmup=100, cosine=True, label_smoothing=0.1, mixup=True, erasing=0.25, average=0.998
    ),
}


def batches(recipe: Recipe, rng: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Newly drawn images and one-hot labels: a fixed set of drawings would be learnt by heart."""
    for _ in range(recipe.steps):
        labels = torch.randint(CLASSES, (recipe.batch_size,), generator=rng)
        images, shown = NORMALISE(textures(labels, rng)), F.one_hot(labels, CLASSES).float()
        targets = shown.lerp(shown.roll(1, 0), recipe.second)
        yield regularise(images, targets, recipe, rng)


def regularise(images: Tensor, targets: Tensor, recipe: Recipe, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    n = len(images)
    if recipe.erasing:
        corner, size = torch.rand(2, n, 2, generator=rng)
        axis = torch.arange(SIDE) / SIDE
        hit = ((axis >= corner[..., None]) & (axis < (corner + 0.1 + 0.3 * size)[..., None])).unbind(1)
        erased = hit[0][:, :, None] & hit[1][:, None, :] & (torch.rand(n, 1, 1, generator=rng) < recipe.erasing)
        images = images.masked_fill(erased[:, None], 0.0)
    if recipe.mixup:
        share = 0.3 * torch.rand(n, generator=rng)
        images = images.lerp(images.roll(1, 0), share.view(-1, 1, 1, 1))
        targets = targets.lerp(targets.roll(1, 0), share.view(-1, 1))
    return images, targets


def train(recipe: Recipe, seed: int) -> nn.Module:
    """The trained model, in eval mode. Same seed, same machine: the same weights to the last bit."""
    torch.manual_seed(seed)
    rng = torch.Generator().manual_seed(seed)
    model = resnext_tiny(num_classes=CLASSES + 9).to(memory_format=torch.channels_last)
    averaged = copy.deepcopy(model).eval()
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, recipe.rate)
    started, right = time.monotonic(), 0.0
    for step, (images, targets) in enumerate(batches(recipe, rng), start=1):
        with torch.autocast("cpu", torch.bfloat16):
            outputs = model(images.contiguous(memory_format=torch.channels_last)).float()
        logits, colours = outputs.split([CLASSES, 9], dim=1)
        loss = F.cross_entropy(logits, targets, label_smoothing=recipe.label_smoothing)
        loss = loss + recipe.colours * F.mse_loss(colours, statistics(images))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        decay = min(recipe.average, step / (step + 10))
        for mean, now in zip(averaged.state_dict().values(), model.state_dict().values(), strict=True):
            mean.copy_(mean.lerp(now, 1 - decay) if mean.is_floating_point() else now)
        right = 0.98 * right + 0.02 * (logits.argmax(1) == targets.argmax(1)).float().mean().item()
        if step % 100 == 0:
            print(f"  step {step} of {recipe.steps}: accuracy about {right:.2f}, {time.monotonic() - started:.0f} s", flush=True)
    return averaged


def backbone(model: nn.Module) -> dict[str, Tensor]:
    """What is embedded: all but the head."""
    return {name: tensor.contiguous() for name, tensor in model.state_dict().items() if not name.startswith("fc.")}


@torch.inference_mode()
def features(model: nn.Module, pixels: np.ndarray) -> np.ndarray:
    """What the head sees, [N, 512], for uint8 images [N, SIDE, SIDE, 3]."""
    model.eval().fc = nn.Identity()
    images = NORMALISE(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255)
    return torch.cat([model(chunk) for chunk in images.split(128)]).numpy()


def read_tiles(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """The images of a folder CLASS/image at SIDE pixels, and their labels."""
    files = sorted(path for path in folder.glob("*/*") if path.is_file())
    images = [np.asarray(Image.open(f).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)) for f in files]
    return np.stack(images), np.unique([f.parent.name for f in files], return_inverse=True)[1]


def linear_head(model: nn.Module, pixels: np.ndarray, labels: np.ndarray, folds: object, groups: object = None) -> float:
    """Cross-validated accuracy of a logistic regression on frozen features."""
    head = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000))
    return float(cross_val_score(head, features(model, pixels), labels, cv=folds, groups=groups).mean())


def evaluate(models: dict[str, Callable[[int], nn.Module]], tiles: Path | None, seeds: int = 3) -> None:
    drawn = phantom()
    sets = {"phantom": (drawn.pixels, drawn.labels)} | ({"tiles": read_tiles(tiles)} if tiles else {})
    for name, make in models.items():
        for title, (pixels, labels) in sets.items():
            scores = [
                linear_head(make(seed), pixels, labels, StratifiedKFold(5, shuffle=True, random_state=seed))
                for seed in range(seeds)
            ]
            print(f"{name:12} {title:8} {np.mean(scores):.3f}  ({', '.join(f'{score:.3f}' for score in scores)})")
        scores = [linear_head(make(s), drawn.pixels, drawn.labels, StratifiedGroupKFold(5, shuffle=True, random_state=s), drawn.groups) for s in range(seeds)]
        print(f"{name:12} {'slides':8} {np.mean(scores):.3f}  ({', '.join(f'{score:.3f}' for score in scores)})")
