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

from bioimg.data.synthetic_tissue import draw_phantom
from bioimg.models.resnext_tiny import EMBEDDED_FOLDER, ResNeXt_Tiny_Weights, resnext_tiny

IMAGE_SIZE_PX = 64
NORMALISATION = v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
FAINT_SHARE = 0.3
"""Share of the second pattern in the target."""

# ---- Drawing. Coordinates u (along) and v (across a pattern's axis) and radius r are in pixels, [N, SIDE, SIDE].

Kernel = Callable[[Tensor, Tensor, Tensor], Tensor]


def fill_outline(distance: Tensor) -> Tensor:
    """One inside an outline (distance below zero), zero outside, over one pixel."""
    return (0.5 - distance).clamp(0, 1)


def gaussian_kernel(u: Tensor, v: Tensor, r: Tensor) -> Tensor:
    return torch.exp(-(u**2 + v**2) / (2 * r**2))


def mexican_hat_kernel(u: Tensor, v: Tensor, r: Tensor) -> Tensor:
    return gaussian_kernel(u, v, r) - gaussian_kernel(u, v, 1.6 * r) / 1.6**2


def disc_kernel(u: Tensor, v: Tensor, r: Tensor) -> Tensor:
    return fill_outline(torch.hypot(u, v) - r)


def ring_kernel(u: Tensor, v: Tensor, r: Tensor) -> Tensor:
    return fill_outline((torch.hypot(u, v) - 1.3 * r).abs() - 0.7)


def ellipse_kernel(u: Tensor, v: Tensor, r: Tensor) -> Tensor:
    return fill_outline(torch.hypot(u / 2.2, v) - 0.75 * r)


def rod_kernel(u: Tensor, v: Tensor, r: Tensor) -> Tensor:
    return fill_outline(torch.maximum(u.abs() - 4 * r, v.abs() - 0.35 * r))


def square_kernel(u: Tensor, v: Tensor, r: Tensor) -> Tensor:
    return fill_outline(torch.maximum(u.abs(), v.abs()) - 0.9 * r)


def cross_kernel(u: Tensor, v: Tensor, r: Tensor) -> Tensor:
    return torch.maximum(rod_kernel(u, v, r * 0.6), rod_kernel(v, u, r * 0.6))


def grating_kernel(u: Tensor, v: Tensor, r: Tensor) -> Tensor:
    return gaussian_kernel(u / 3, v, r) * torch.cos(2.2 * v / r)


SCATTERED_KERNELS: tuple[Kernel, ...] = (
    disc_kernel,
    ring_kernel,
    ellipse_kernel,
    rod_kernel,
    square_kernel,
    cross_kernel,
)
NOISE_PATTERNS: tuple[tuple[Kernel, Callable[[Tensor, Tensor], Tensor]], ...] = (
    (mexican_hat_kernel, lambda x, level: torch.sigmoid(4 * (x - level))),  # blots
    (mexican_hat_kernel, lambda x, level: torch.exp(-3 * (x - level).abs())),  # nets
    (grating_kernel, lambda x, level: torch.sigmoid(4 * (x - level))),  # stripes
    (gaussian_kernel, lambda x, level: torch.sigmoid(1.5 * x) * (1 - 0.4 * level)),  # clouds
)
VARIANTS_PER_KIND = 6
"""Of each kind: three sizes in two densities."""
CLASS_COUNT = (len(SCATTERED_KERNELS) + len(NOISE_PATTERNS)) * VARIANTS_PER_KIND


def draw_textures(labels: Tensor) -> Tensor:
    """Float32 [N, 3, SIDE, SIDE] in 0..1: each shows the pattern of its label and, fainter, that of the label before it."""
    kinds = labels // VARIANTS_PER_KIND
    patterns = torch.empty(len(labels), IMAGE_SIZE_PX, IMAGE_SIZE_PX)
    for kind in kinds.unique().tolist():
        patterns[kinds == kind] = draw_patterns(kind, labels[kinds == kind] % VARIANTS_PER_KIND)
    return print_inks(patterns, patterns.roll(1, 0))


def draw_patterns(kind: int, variant: Tensor) -> Tensor:
    """Patterns of one kind, [N, SIDE, SIDE] in 0..1, each turned and sized at random."""
    n, dense = len(variant), (variant % 2)[:, None, None]
    radius = 1.5 * 1.75 ** (variant // 2)[:, None, None] * random_uniform(n, 0.85, 1.18)
    u, v = rotated_coordinates(random_uniform(n, 0, math.pi))
    if kind < len(SCATTERED_KERNELS):
        kernel = SCATTERED_KERNELS[kind](u, v, radius)
        rate = (
            (0.18 + 0.37 * dense) * random_uniform(n, 0.8, 1.25) / kernel.sum((1, 2), keepdim=True)
        )
        seeds = (torch.rand(n, IMAGE_SIZE_PX, IMAGE_SIZE_PX) < rate) * (
            0.4 + 0.6 * torch.rand(n, IMAGE_SIZE_PX, IMAGE_SIZE_PX)
        )
        return convolve_periodic(seeds, kernel).clamp(0, 1)
    kernel, response = NOISE_PATTERNS[kind - len(SCATTERED_KERNELS)]
    field = convolve_periodic(torch.randn(n, IMAGE_SIZE_PX, IMAGE_SIZE_PX), kernel(u, v, radius))
    return response(field / field.std((1, 2), keepdim=True), 0.9 - 0.9 * dense)


def random_uniform(n: int, low: float, high: float) -> Tensor:
    return torch.rand(n, 1, 1) * (high - low) + low


def rotated_coordinates(angle: Tensor) -> tuple[Tensor, Tensor]:
    """Coordinates on a torus whose origin is the element [0, 0]."""
    axis = torch.fft.fftfreq(IMAGE_SIZE_PX) * IMAGE_SIZE_PX
    return axis * angle.cos() + axis[:, None] * angle.sin(), axis * angle.sin() - axis[
        :, None
    ] * angle.cos()


def convolve_periodic(seeds: Tensor, kernel: Tensor) -> Tensor:
    return torch.fft.irfft2(torch.fft.rfft2(seeds) * torch.fft.rfft2(kernel))


def print_inks(first: Tensor, second: Tensor) -> Tensor:
    """Print two patterns and a cloud on paper, in inks of any hue; a fifth are negatives."""
    n = len(first)
    cloud = F.interpolate(
        torch.randn(n, 1, 6, 6), size=(IMAGE_SIZE_PX, IMAGE_SIZE_PX), mode="bicubic"
    ).sigmoid()
    inks = torch.rand(3, n, 3, 1, 1) ** 1.5 * torch.tensor([2.0, 0.9, 0.5]).view(3, 1, 1, 1, 1)
    density = inks[0] * first[:, None] + inks[1] * second[:, None] + inks[2] * cloud
    paper = 1 - 0.3 * torch.rand(n, 3, 1, 1)
    print_ = paper * torch.exp(-density) + 0.03 * torch.randn(n, 3, IMAGE_SIZE_PX, IMAGE_SIZE_PX)
    return torch.where(torch.rand(n, 1, 1, 1) < 0.2, 1 - print_, print_).clamp(0, 1)


def colour_moments(images: Tensor) -> Tensor:
    """Mean and covariance of the colours of each image, [N, 9]."""
    pixels = images.flatten(2)
    centred = pixels - pixels.mean(2, keepdim=True)
    row, column = torch.triu_indices(3, 3)
    return torch.cat(
        [pixels.mean(2), (centred @ centred.mT / pixels.shape[2])[:, row, column]], dim=1
    )


# ---- Training.


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """How to train. The defaults are the plain recipe."""

    steps: int = 1200
    batch_size: int = 64
    learning_rate: float = 2e-3
    warmup_steps: int = 0
    cosine_schedule: bool = False
    label_smoothing: float = 0.0
    regularise: bool = False
    """Random erasing and mixup."""
    ema_decay: float = 0.0
    """Decay of the moving average of the weights; at zero it is the last weights."""

    def learning_rate_factor(self, step: int) -> float:
        """The factor on the learning rate."""
        rise = min(1.0, (step + 1) / max(1, self.warmup_steps))
        return rise * (
            0.5 + 0.5 * math.cos(math.pi * step / self.steps) if self.cosine_schedule else 1.0
        )


TRAINING_SETTINGS = {
    ResNeXt_Tiny_Weights.TEXTURES_V1: TrainingSettings(),
    ResNeXt_Tiny_Weights.TEXTURES_V2: TrainingSettings(
        steps=4000,
        learning_rate=3e-3,
        warmup_steps=200,
        cosine_schedule=True,
        label_smoothing=0.1,
        regularise=True,
        ema_decay=0.998,
    ),
}

RANDOM_ERASING = v2.RandomErasing(p=0.25, scale=(0.02, 0.2))
MIXUP = v2.MixUp(num_classes=CLASS_COUNT, alpha=0.2)


def texture_batches(recipe: TrainingSettings) -> Iterator[tuple[Tensor, Tensor]]:
    """Images and targets [N, CLASSES], newly drawn: a fixed set of drawings would be memorised."""
    for _ in range(recipe.steps):
        labels = torch.randint(CLASS_COUNT, (recipe.batch_size,))
        images, first = NORMALISATION(draw_textures(labels)), F.one_hot(labels, CLASS_COUNT).float()
        targets = first.lerp(first.roll(1, 0), FAINT_SHARE)
        yield (
            MIXUP(torch.stack([RANDOM_ERASING(image) for image in images]), targets)
            if recipe.regularise
            else (images, targets)
        )


def train_network(recipe: TrainingSettings, seed: int) -> nn.Module:
    """The trained model. Same seed, same machine, one thread: the same weights to the last bit."""
    torch.manual_seed(seed)
    model = resnext_tiny(num_classes=CLASS_COUNT + 9).to(memory_format=torch.channels_last)
    averaged = AveragedModel(
        model, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema_decay), use_buffers=True
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, recipe.learning_rate_factor)
    started = time.monotonic()
    for step, (images, targets) in enumerate(texture_batches(recipe), start=1):
        loss = training_loss(model, images, targets, recipe)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        averaged.update_parameters(model)
        if step % 200 == 0:
            print(
                f"  step {step} of {recipe.steps}: loss {loss.item():.2f}, {time.monotonic() - started:.0f} s",
                flush=True,
            )
    return averaged.module


def training_loss(
    model: nn.Module, images: Tensor, targets: Tensor, recipe: TrainingSettings
) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model(images.contiguous(memory_format=torch.channels_last)).float()
    which, stain = outputs.split([CLASS_COUNT, 9], dim=1)
    return F.cross_entropy(which, targets, label_smoothing=recipe.label_smoothing) + F.mse_loss(
        stain, colour_moments(images)
    )


def save_backbone(model: nn.Module, file: Path) -> None:
    """All but the head."""
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(
        {k: v.contiguous() for k, v in model.state_dict().items() if not k.startswith("fc.")}, file
    )


# ---- Evaluation: a linear head on frozen features.


@torch.inference_mode()
def extract_features(
    weights: ResNeXt_Tiny_Weights | None, pixels: np.ndarray, seed: int
) -> np.ndarray:
    """What the head sees, [N, 512], for uint8 images [N, SIDE, SIDE, 3]; the seed makes random weights."""
    torch.manual_seed(seed)
    model = resnext_tiny(weights=weights).eval()
    backbone = nn.Sequential(*list(model.children())[:-1], nn.Flatten())
    images = NORMALISATION(torch.tensor(pixels).permute(0, 3, 1, 2) / 255)
    return torch.cat([backbone(chunk) for chunk in images.split(128)]).numpy()


def cross_validated_accuracy(
    weights: ResNeXt_Tiny_Weights | None,
    seed: int,
    pixels: np.ndarray,
    labels: np.ndarray,
    groups: object,
) -> float:
    """Of a logistic regression in five-fold cross-validation; no group is in two folds."""
    folds = (StratifiedKFold if groups is None else StratifiedGroupKFold)(
        5, shuffle=True, random_state=seed
    )
    head = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000))
    return float(
        cross_val_score(
            head, extract_features(weights, pixels, seed), labels, groups=groups, cv=folds
        ).mean()
    )


def read_tiles(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """The images CLASS/image of a folder at SIDE pixels, and their labels."""
    files = sorted(path for path in folder.glob("*/*") if path.is_file())
    images = [
        np.asarray(
            Image.open(f)
            .convert("RGB")
            .resize((IMAGE_SIZE_PX, IMAGE_SIZE_PX), Image.Resampling.BILINEAR)
        )
        for f in files
    ]
    return np.stack(images), np.unique([f.parent.name for f in files], return_inverse=True)[1]


def evaluate_weights(tiles: Path | None) -> None:
    drawn = draw_phantom()
    sets = {
        "phantom": (drawn.pixels, drawn.labels, None),
        "phantom by slide": (drawn.pixels, drawn.labels, drawn.groups),
    }
    if tiles is not None:
        sets[tiles.name] = (*read_tiles(tiles), None)
    for title, images in sets.items():
        for weights in (None, *ResNeXt_Tiny_Weights):
            scores = [cross_validated_accuracy(weights, seed, *images) for seed in range(3)]
            name = weights.name if weights else "none"
            print(
                f"{title:20} {name:12} {np.mean(scores):.3f}  ({', '.join(f'{score:.3f}' for score in scores)})",
                flush=True,
            )


def main(
    out: Path = EMBEDDED_FOLDER, seed: int = 0, evaluate: bool = False, tiles: Path | None = None
) -> None:
    """Train the weights that come with the package, or evaluate them.

    Args:
        out: where the weights are written.
        seed: of the model's first weights and of the drawings.
        evaluate: print the accuracy of a linear head on the embedded weights and on random ones, without training any.
        tiles: with --evaluate: also on this folder of images, CLASS/image.
    """
    torch.set_num_threads(1)
    if evaluate:
        return evaluate_weights(tiles)
    for weights, recipe in TRAINING_SETTINGS.items():
        print(weights.name, flush=True)
        save_backbone(train_network(recipe, seed), out / Path(weights.url).name)


if __name__ == "__main__":
    tyro.cli(main)
