"""Make the weights that come with the package: `resnext_tiny`, trained on textures that this file draws.

    python experiments/pretrain_textures.py                           # both recipes, into bioimg/model/embedded/
    python experiments/pretrain_textures.py --evaluate --tiles DIR    # accuracy of a linear head on them

Cost: ten minutes on one core that computes in bfloat16 (3 for V1, 7 for V2), a GPU isn't used; --evaluate about 20 s.

A picture shows two of 60 patterns in inks of any hue. The model predicts which two, and the mean and covariance of the
picture's colours, without which it would learn that colour doesn't matter. No drawing code and no class is shared
with the phantom set.

Expected of --evaluate, accuracy of a linear head on frozen features at 64 px, five folds, mean over 3 seeds (which make
the folds and the random weights; the three lie within 0.03 of each other):

                                          none    TEXTURES_V1   TEXTURES_V2
    phantom                               0.508   0.737         0.873
    phantom, no slide in two folds        0.499   0.704         0.849
    420 tiles of Kather et al. 2016       0.621   0.756         0.767     (six classes, DOI 10.5281/zenodo.53169)
"""

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
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchvision.transforms import v2

from bioimg.data.phantom import phantom
from bioimg.model.tiny import EMBEDDED, ResNeXt_Tiny_Weights, resnext_tiny

SIDE = 64
NORMALISE = v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
FAINT = 0.3
"""Share of the second pattern in the target."""

# ---- Drawing. Coordinates u (along) and v (across a pattern's axis) and radius r are in pixels, [N, SIDE, SIDE].

Kernel = Callable[[Tensor, Tensor, Tensor], Tensor]


def fill(distance: Tensor) -> Tensor:
    """One inside an outline (distance below zero), zero outside, over one pixel."""
    return (0.5 - distance).clamp(0, 1)


def bell(u: Tensor, v: Tensor, r: Tensor) -> Tensor:
    return torch.exp(-(u**2 + v**2) / (2 * r**2))


def hat(u: Tensor, v: Tensor, r: Tensor) -> Tensor:
    return bell(u, v, r) - bell(u, v, 1.6 * r) / 1.6**2


def disc(u: Tensor, v: Tensor, r: Tensor) -> Tensor:
    return fill(torch.hypot(u, v) - r)


def ring(u: Tensor, v: Tensor, r: Tensor) -> Tensor:
    return fill((torch.hypot(u, v) - 1.3 * r).abs() - 0.7)


def ellipse(u: Tensor, v: Tensor, r: Tensor) -> Tensor:
    return fill(torch.hypot(u / 2.2, v) - 0.75 * r)


def rod(u: Tensor, v: Tensor, r: Tensor) -> Tensor:
    return fill(torch.maximum(u.abs() - 4 * r, v.abs() - 0.35 * r))


def square(u: Tensor, v: Tensor, r: Tensor) -> Tensor:
    return fill(torch.maximum(u.abs(), v.abs()) - 0.9 * r)


def cross(u: Tensor, v: Tensor, r: Tensor) -> Tensor:
    return torch.maximum(rod(u, v, r * 0.6), rod(v, u, r * 0.6))


def grating(u: Tensor, v: Tensor, r: Tensor) -> Tensor:
    return bell(u / 3, v, r) * torch.cos(2.2 * v / r)


SCATTERED: tuple[Kernel, ...] = (disc, ring, ellipse, rod, square, cross)
NOISE: tuple[tuple[Kernel, Callable[[Tensor, Tensor], Tensor]], ...] = (
    (hat, lambda x, level: torch.sigmoid(4 * (x - level))),  # blots
    (hat, lambda x, level: torch.exp(-3 * (x - level).abs())),  # nets
    (grating, lambda x, level: torch.sigmoid(4 * (x - level))),  # stripes
    (bell, lambda x, level: torch.sigmoid(1.5 * x) * (1 - 0.4 * level)),  # clouds
)
VARIANTS = 6
"""Of each kind: three sizes in two densities."""
CLASSES = (len(SCATTERED) + len(NOISE)) * VARIANTS


def textures(labels: Tensor) -> Tensor:
    """Float32 [N, 3, SIDE, SIDE] in 0..1: each shows the pattern of its label and, fainter, that of the label before it."""
    kinds = labels // VARIANTS
    patterns = torch.empty(len(labels), SIDE, SIDE)
    for kind in kinds.unique().tolist():
        patterns[kinds == kind] = pattern(kind, labels[kinds == kind] % VARIANTS)
    return ink(patterns, patterns.roll(1, 0))


def pattern(kind: int, variant: Tensor) -> Tensor:
    """Patterns of one kind, [N, SIDE, SIDE] in 0..1, each turned and sized at random."""
    n, dense = len(variant), (variant % 2)[:, None, None]
    radius = 1.5 * 1.75 ** (variant // 2)[:, None, None] * uniform(n, 0.85, 1.18)
    u, v = turned(uniform(n, 0, math.pi))
    if kind < len(SCATTERED):
        kernel = SCATTERED[kind](u, v, radius)
        rate = (0.18 + 0.37 * dense) * uniform(n, 0.8, 1.25) / kernel.sum((1, 2), keepdim=True)
        seeds = (torch.rand(n, SIDE, SIDE) < rate) * (0.4 + 0.6 * torch.rand(n, SIDE, SIDE))
        return convolve(seeds, kernel).clamp(0, 1)
    kernel, response = NOISE[kind - len(SCATTERED)]
    field = convolve(torch.randn(n, SIDE, SIDE), kernel(u, v, radius))
    return response(field / field.std((1, 2), keepdim=True), 0.9 - 0.9 * dense)


def uniform(n: int, low: float, high: float) -> Tensor:
    return torch.rand(n, 1, 1) * (high - low) + low


def turned(angle: Tensor) -> tuple[Tensor, Tensor]:
    """Coordinates on a torus whose origin is the element [0, 0]."""
    axis = torch.fft.fftfreq(SIDE) * SIDE
    return axis * angle.cos() + axis[:, None] * angle.sin(), axis * angle.sin() - axis[:, None] * angle.cos()


def convolve(seeds: Tensor, kernel: Tensor) -> Tensor:
    return torch.fft.irfft2(torch.fft.rfft2(seeds) * torch.fft.rfft2(kernel))


def ink(first: Tensor, second: Tensor) -> Tensor:
    """Print two patterns and a cloud on paper, in inks of any hue; a fifth are negatives."""
    n = len(first)
    cloud = F.interpolate(torch.randn(n, 1, 6, 6), size=(SIDE, SIDE), mode="bicubic").sigmoid()
    inks = torch.rand(3, n, 3, 1, 1) ** 1.5 * torch.tensor([2.0, 0.9, 0.5]).view(3, 1, 1, 1, 1)
    density = inks[0] * first[:, None] + inks[1] * second[:, None] + inks[2] * cloud
    paper = 1 - 0.3 * torch.rand(n, 3, 1, 1)
    print_ = paper * torch.exp(-density) + 0.03 * torch.randn(n, 3, SIDE, SIDE)
    return torch.where(torch.rand(n, 1, 1, 1) < 0.2, 1 - print_, print_).clamp(0, 1)


def colours(images: Tensor) -> Tensor:
    """Mean and covariance of the colours of each image, [N, 9]."""
    pixels = images.flatten(2)
    centred = pixels - pixels.mean(2, keepdim=True)
    row, column = torch.triu_indices(3, 3)
    return torch.cat([pixels.mean(2), (centred @ centred.mT / pixels.shape[2])[:, row, column]], dim=1)


# ---- Training.


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train. The defaults are the plain recipe."""

    steps: int = 1200
    batch_size: int = 64
    learning_rate: float = 2e-3
    warmup: int = 0
    cosine: bool = False
    label_smoothing: float = 0.0
    regularise: bool = False
    """Random erasing and mixup."""
    average: float = 0.0
    """Decay of the moving average of the weights; at zero it is the last weights."""

    def rate(self, step: int) -> float:
        """The factor on the learning rate."""
        rise = min(1.0, (step + 1) / max(1, self.warmup))
        return rise * (0.5 + 0.5 * math.cos(math.pi * step / self.steps) if self.cosine else 1.0)


RECIPES = {
    ResNeXt_Tiny_Weights.TEXTURES_V1: Recipe(),
    ResNeXt_Tiny_Weights.TEXTURES_V2: Recipe(
        steps=4000, learning_rate=3e-3, warmup=200, cosine=True, label_smoothing=0.1, regularise=True, average=0.998
    ),
}

erase = v2.RandomErasing(p=0.25, scale=(0.02, 0.2))
mix = v2.MixUp(num_classes=CLASSES, alpha=0.2)


def batches(recipe: Recipe) -> Iterator[tuple[Tensor, Tensor]]:
    """Images and targets [N, CLASSES], newly drawn: a fixed set of drawings would be memorised."""
    for _ in range(recipe.steps):
        labels = torch.randint(CLASSES, (recipe.batch_size,))
        images, first = NORMALISE(textures(labels)), F.one_hot(labels, CLASSES).float()
        targets = first.lerp(first.roll(1, 0), FAINT)
        yield mix(torch.stack([erase(image) for image in images]), targets) if recipe.regularise else (images, targets)


def train(recipe: Recipe, seed: int) -> nn.Module:
    """The trained model. Same seed, same machine, one thread: the same weights to the last bit."""
    torch.manual_seed(seed)
    model = resnext_tiny(num_classes=CLASSES + 9).to(memory_format=torch.channels_last)
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(recipe.average), use_buffers=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, recipe.rate)
    started = time.monotonic()
    for step, (images, targets) in enumerate(batches(recipe), start=1):
        loss = loss_of(model, images, targets, recipe)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        averaged.update_parameters(model)
        if step % 200 == 0:
            print(f"  step {step} of {recipe.steps}: loss {loss.item():.2f}, {time.monotonic() - started:.0f} s", flush=True)
    return averaged.module


def loss_of(model: nn.Module, images: Tensor, targets: Tensor, recipe: Recipe) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model(images.contiguous(memory_format=torch.channels_last)).float()
    which, stain = outputs.split([CLASSES, 9], dim=1)
    return F.cross_entropy(which, targets, label_smoothing=recipe.label_smoothing) + F.mse_loss(stain, colours(images))


def save(model: nn.Module, file: Path) -> None:
    """All but the head."""
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in model.state_dict().items() if not k.startswith("fc.")}, file)


# ---- Evaluation: a linear head on frozen features.


@torch.inference_mode()
def features(weights: ResNeXt_Tiny_Weights | None, pixels: np.ndarray, seed: int) -> np.ndarray:
    """What the head sees, [N, 512], for uint8 images [N, SIDE, SIDE, 3]; the seed makes random weights."""
    torch.manual_seed(seed)
    model = resnext_tiny(weights=weights).eval()
    backbone = nn.Sequential(*list(model.children())[:-1], nn.Flatten())
    images = NORMALISE(torch.tensor(pixels).permute(0, 3, 1, 2) / 255)
    return torch.cat([backbone(chunk) for chunk in images.split(128)]).numpy()


def accuracy(weights: ResNeXt_Tiny_Weights | None, seed: int, pixels: np.ndarray, labels: np.ndarray, groups: object) -> float:
    """Of a logistic regression in five-fold cross-validation; no group is in two folds."""
    folds = (StratifiedKFold if groups is None else StratifiedGroupKFold)(5, shuffle=True, random_state=seed)
    head = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000))
    return float(cross_val_score(head, features(weights, pixels, seed), labels, groups=groups, cv=folds).mean())


def read(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """The images CLASS/image of a folder at SIDE pixels, and their labels."""
    files = sorted(path for path in folder.glob("*/*") if path.is_file())
    images = [np.asarray(Image.open(f).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)) for f in files]
    return np.stack(images), np.unique([f.parent.name for f in files], return_inverse=True)[1]


def evaluate_all(tiles: Path | None) -> None:
    drawn = phantom()
    sets = {"phantom": (drawn.pixels, drawn.labels, None), "phantom by slide": (drawn.pixels, drawn.labels, drawn.groups)}
    if tiles is not None:
        sets[tiles.name] = (*read(tiles), None)
    for title, images in sets.items():
        for weights in (None, *ResNeXt_Tiny_Weights):
            scores = [accuracy(weights, seed, *images) for seed in range(3)]
            name = weights.name if weights else "none"
            print(f"{title:20} {name:12} {np.mean(scores):.3f}  ({', '.join(f'{score:.3f}' for score in scores)})", flush=True)


def main(out: Path = EMBEDDED, seed: int = 0, evaluate: bool = False, tiles: Path | None = None) -> None:
    """Train the weights that come with the package, or evaluate them.

    Args:
        out: where the weights are written.
        seed: of the model's first weights and of the drawings.
        evaluate: print the accuracy of a linear head on the embedded weights and on random ones, without training any.
        tiles: with --evaluate: also on this folder of images, CLASS/image.
    """
    torch.set_num_threads(1)
    if evaluate:
        return evaluate_all(tiles)
    for weights, recipe in RECIPES.items():
        print(weights.name, flush=True)
        save(train(recipe, seed), out / Path(weights.url).name)


if __name__ == "__main__":
    tyro.cli(main)
