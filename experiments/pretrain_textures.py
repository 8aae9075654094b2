"""Make the weights that come with the package: `resnext_tiny`, trained on textures drawn here.

    python experiments/pretrain_textures.py                           # both recipes
    python experiments/pretrain_textures.py --evaluate --tiles DIR    # accuracy of a linear head

The first command writes into bioimg/models/embedded/. It takes ten minutes on one core that
computes in bfloat16 (3 for V1, 7 for V2); a GPU isn't used. --evaluate takes about 20 s.

A picture shows two of 60 patterns in inks of any hue. The model predicts which two, and the mean
and covariance of the picture's colours, without which it would learn that colour doesn't matter.
The synthetic tissue of the demo shares no drawing code and no class with these textures.

Expected results of --evaluate: the accuracy of a linear head on frozen features at 64 px, five
folds, mean over 3 seeds. The seeds determine the folds and the random weights; the three accuracies
lie within 0.03 of each other.

                                          none    TEXTURES_V1   TEXTURES_V2
    phantom                               0.516   0.749         0.854
    phantom, no slide in two folds        0.532   0.751         0.861
    420 tiles of Kather et al. 2016       0.621   0.756         0.767

The tiles are of six classes (DOI 10.5281/zenodo.53169).
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

from bioimg.config import DatasetConfig
from bioimg.data import load_dataset
from bioimg.models.resnext_tiny import EMBEDDED_FOLDER, ResNeXt_Tiny_Weights, resnext_tiny

IMAGE_SIZE_PX = 64
NORMALISATION = v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
FAINT_SHARE = 0.3
"""Share of the second pattern in the target."""
COLOUR_MOMENTS = 9
"""Three means and six covariances."""

# ---- Drawing. Coordinates u (along a pattern's axis), v (across it) and radius r are in pixels,
# ---- [N, IMAGE_SIZE_PX, IMAGE_SIZE_PX].

Kernel = Callable[[Tensor, Tensor, Tensor], Tensor]


def fill_outline(distance: Tensor) -> Tensor:
    """Return one inside an outline (distance below zero) and zero outside, blended over a pixel."""
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
"""Filters of noise, and the responses that turn the filtered noise into a pattern."""
VARIANTS_PER_KIND = 6
"""Three sizes in two densities of each kind of pattern."""
CLASS_COUNT = (len(SCATTERED_KERNELS) + len(NOISE_PATTERNS)) * VARIANTS_PER_KIND


def draw_textures(labels: Tensor) -> Tensor:
    """Draw pictures, float32 [N, 3, IMAGE_SIZE_PX, IMAGE_SIZE_PX] in 0..1.

    Each shows the pattern of its label and, fainter, that of the label before it.
    """
    kinds = labels // VARIANTS_PER_KIND
    patterns = torch.empty(len(labels), IMAGE_SIZE_PX, IMAGE_SIZE_PX)
    for kind in kinds.unique().tolist():
        chosen = kinds == kind
        patterns[chosen] = draw_patterns(kind, labels[chosen] % VARIANTS_PER_KIND)
    return print_inks(patterns, patterns.roll(1, 0))


def draw_patterns(kind: int, variants: Tensor) -> Tensor:
    """Draw patterns of one kind, [N, IMAGE_SIZE_PX, IMAGE_SIZE_PX] in 0..1.

    Each is turned and sized at random.
    """
    n = len(variants)
    is_dense = (variants % 2)[:, None, None]
    mean_radius = 1.5 * 1.75 ** (variants // 2)[:, None, None]
    radius = mean_radius * random_uniform(n, 0.85, 1.18)
    u, v = rotated_coordinates(random_uniform(n, 0, math.pi))
    if kind < len(SCATTERED_KERNELS):
        return scatter_kernel(SCATTERED_KERNELS[kind](u, v, radius), is_dense)
    kernel, response = NOISE_PATTERNS[kind - len(SCATTERED_KERNELS)]
    noise = torch.randn(n, IMAGE_SIZE_PX, IMAGE_SIZE_PX)
    field = convolve_periodic(noise, kernel(u, v, radius))
    return response(field / field.std((1, 2), keepdim=True), 0.9 - 0.9 * is_dense)


def scatter_kernel(kernel: Tensor, is_dense: Tensor) -> Tensor:
    """Place copies of a shape at random, in different strengths."""
    n = len(kernel)
    covered_share = (0.18 + 0.37 * is_dense) * random_uniform(n, 0.8, 1.25)
    rate = covered_share / kernel.sum((1, 2), keepdim=True)
    is_centre = torch.rand(n, IMAGE_SIZE_PX, IMAGE_SIZE_PX) < rate
    strengths = 0.4 + 0.6 * torch.rand(n, IMAGE_SIZE_PX, IMAGE_SIZE_PX)
    return convolve_periodic(is_centre * strengths, kernel).clamp(0, 1)


def random_uniform(n: int, low: float, high: float) -> Tensor:
    return torch.rand(n, 1, 1) * (high - low) + low


def rotated_coordinates(angle: Tensor) -> tuple[Tensor, Tensor]:
    """Return coordinates on a torus whose origin is the element [0, 0]."""
    x = torch.fft.fftfreq(IMAGE_SIZE_PX) * IMAGE_SIZE_PX
    y = x[:, None]
    return x * angle.cos() + y * angle.sin(), x * angle.sin() - y * angle.cos()


def convolve_periodic(seeds: Tensor, kernel: Tensor) -> Tensor:
    return torch.fft.irfft2(torch.fft.rfft2(seeds) * torch.fft.rfft2(kernel))


def print_inks(first: Tensor, second: Tensor) -> Tensor:
    """Print two patterns and a cloud on paper, in inks of any hue. A fifth are negatives."""
    n = len(first)
    cloud_grid = torch.randn(n, 1, 6, 6)
    size = (IMAGE_SIZE_PX, IMAGE_SIZE_PX)
    cloud = F.interpolate(cloud_grid, size=size, mode="bicubic").sigmoid()
    strengths = torch.tensor([2.0, 0.9, 0.5]).view(3, 1, 1, 1, 1)
    inks = torch.rand(3, n, 3, 1, 1) ** 1.5 * strengths
    density = inks[0] * first[:, None] + inks[1] * second[:, None] + inks[2] * cloud
    paper = 1 - 0.3 * torch.rand(n, 3, 1, 1)
    noise = 0.03 * torch.randn(n, 3, IMAGE_SIZE_PX, IMAGE_SIZE_PX)
    printed = paper * torch.exp(-density) + noise
    is_negative = torch.rand(n, 1, 1, 1) < 0.2
    return torch.where(is_negative, 1 - printed, printed).clamp(0, 1)


def colour_moments(images: Tensor) -> Tensor:
    """Return the mean and covariance of the colours of each image, [N, COLOUR_MOMENTS]."""
    pixels = images.flatten(2)
    means = pixels.mean(2, keepdim=True)
    centred = pixels - means
    covariances = centred @ centred.mT / pixels.shape[2]
    row, column = torch.triu_indices(3, 3)
    return torch.cat([means.squeeze(2), covariances[:, row, column]], dim=1)


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
    """Decay of the moving average of the weights; with zero it is the last weights."""

    def learning_rate_factor(self, step: int) -> float:
        """Return the factor on the learning rate at a step, counted from 0."""
        warmup = min(1.0, (step + 1) / max(1, self.warmup_steps))
        if not self.cosine_schedule:
            return warmup
        return warmup * (0.5 + 0.5 * math.cos(math.pi * step / self.steps))


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


def texture_batches(settings: TrainingSettings) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield images and targets [N, CLASS_COUNT].

    They are drawn anew for each step, since the model would memorise a fixed set of drawings.
    """
    for _ in range(settings.steps):
        labels = torch.randint(CLASS_COUNT, (settings.batch_size,))
        images = NORMALISATION(draw_textures(labels))
        first_patterns = F.one_hot(labels, CLASS_COUNT).float()
        targets = first_patterns.lerp(first_patterns.roll(1, 0), FAINT_SHARE)
        if settings.regularise:
            erased = torch.stack([RANDOM_ERASING(image) for image in images])
            images, targets = MIXUP(erased, targets)
        yield images, targets


def train_network(settings: TrainingSettings, seed: int) -> nn.Module:
    """Return the trained model.

    The same seed on the same machine with one thread gives the same weights to the last bit.
    """
    torch.manual_seed(seed)
    model = resnext_tiny(num_classes=CLASS_COUNT + COLOUR_MOMENTS)
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = get_ema_multi_avg_fn(settings.ema_decay)
    averaged = AveragedModel(model, multi_avg_fn=average, use_buffers=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=0.05)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, settings.learning_rate_factor)
    started = time.monotonic()
    for step, (images, targets) in enumerate(texture_batches(settings), start=1):
        loss = training_loss(model, images, targets, settings)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        averaged.update_parameters(model)
        if step % 200 == 0:
            seconds = time.monotonic() - started
            progress = f"step {step} of {settings.steps}"
            print(f"  {progress}: loss {loss.item():.2f}, {seconds:.0f} s", flush=True)
    return averaged.module


def training_loss(
    model: nn.Module, images: Tensor, targets: Tensor, settings: TrainingSettings
) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model(images.contiguous(memory_format=torch.channels_last)).float()
    logits, moments = outputs.split([CLASS_COUNT, COLOUR_MOMENTS], dim=1)
    pattern_loss = F.cross_entropy(logits, targets, label_smoothing=settings.label_smoothing)
    return pattern_loss + F.mse_loss(moments, colour_moments(images))


def save_backbone(model: nn.Module, file: Path) -> None:
    """Write all weights but the head's."""
    file.parent.mkdir(parents=True, exist_ok=True)
    state = model.state_dict()
    backbone = {name: t.contiguous() for name, t in state.items() if not name.startswith("fc.")}
    save_file(backbone, file)


# ---- Evaluation: a linear head on frozen features.


@torch.inference_mode()
def extract_features(
    weights: ResNeXt_Tiny_Weights | None, pixels: np.ndarray, seed: int
) -> np.ndarray:
    """Return the head's inputs, [N, 512], for uint8 images [N, IMAGE_SIZE_PX, IMAGE_SIZE_PX, 3].

    The seed determines random weights.
    """
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
    """Return the accuracy of a logistic regression in five-fold cross-validation.

    No group is in two folds.
    """
    splitter = StratifiedKFold if groups is None else StratifiedGroupKFold
    folds = splitter(5, shuffle=True, random_state=seed)
    head = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000))
    features = extract_features(weights, pixels, seed)
    return float(cross_val_score(head, features, labels, groups=groups, cv=folds).mean())


def read_tiles(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read the images CLASS/image of a folder at IMAGE_SIZE_PX pixels, and their labels."""
    files = sorted(path for path in folder.glob("*/*") if path.is_file())
    size = (IMAGE_SIZE_PX, IMAGE_SIZE_PX)
    images = []
    for file in files:
        image = Image.open(file).convert("RGB").resize(size, Image.Resampling.BILINEAR)
        images.append(np.asarray(image))
    _, labels = np.unique([file.parent.name for file in files], return_inverse=True)
    return np.stack(images), labels


def evaluate_weights(tiles: Path | None) -> None:
    """Print the accuracy of a linear head on each data set and each weights."""
    phantom = load_dataset(DatasetConfig(data="phantom", image_size=IMAGE_SIZE_PX)).images
    data_sets = {
        "phantom": (phantom.pixels, phantom.labels, None),
        "phantom by slide": (phantom.pixels, phantom.labels, phantom.groups),
    }
    if tiles is not None:
        data_sets[tiles.name] = (*read_tiles(tiles), None)
    for title, images in data_sets.items():
        for weights in (None, *ResNeXt_Tiny_Weights):
            accuracies = [cross_validated_accuracy(weights, seed, *images) for seed in range(3)]
            name = weights.name if weights else "none"
            by_seed = ", ".join(f"{accuracy:.3f}" for accuracy in accuracies)
            print(f"{title:20} {name:12} {np.mean(accuracies):.3f}  ({by_seed})", flush=True)


def main(
    out: Path = EMBEDDED_FOLDER, seed: int = 0, evaluate: bool = False, tiles: Path | None = None
) -> None:
    """Train the weights that come with the package, or evaluate them.

    Args:
        out: folder that the weights are written to.
        seed: seed of the model's first weights and of the drawings.
        evaluate: print the accuracy of a linear head on the embedded weights and on random ones,
            without training any.
        tiles: with --evaluate, also evaluate on this folder of images, CLASS/image.
    """
    torch.set_num_threads(1)
    if evaluate:
        evaluate_weights(tiles)
        return
    for weights, settings in TRAINING_SETTINGS.items():
        print(weights.name, flush=True)
        save_backbone(train_network(settings, seed), out / Path(weights.url).name)


if __name__ == "__main__":
    tyro.cli(main)
