"""Exact evaluation: every image counts once, however many workers share the work."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from bioimg.training.batches import Batch, to_device
from bioimg.training.distributed import SINGLE_WORKER, WorkerGroup

MAX_BATCH_IMAGES = 64
MAX_BATCH_PIXELS = {"cpu": 16 * 150 * 150, "cuda": 64 * 150 * 150}
"""Images, and pixels of images, in one batch outside of training, which must not need more memory than training.

On a CPU, the activations of 16 images of 150 px stay in its cache; with more, ResNeXt-50 is slower.
"""


class Score(NamedTuple):
    """Mean cross-entropy per image, and the fraction of images that are right."""

    loss: float
    accuracy: float


@torch.no_grad()
def gather_outputs(
    compute: Callable[[Batch], torch.Tensor],
    indices: np.ndarray,
    *,
    view: int = 0,
    image_size: int,
    width: int,
    device: torch.device,
    group: WorkerGroup = SINGLE_WORKER,
) -> torch.Tensor:
    """float32 [N, width], the same on every worker: what `compute` gives for each image.

    Each row is computed by one worker and zero at the others, so that their sum puts the rows together without rounding.
    """
    rows = torch.zeros(len(indices), width, device=device)
    mine = group.shard(np.arange(len(indices)))
    at_once = min(MAX_BATCH_IMAGES, max(1, MAX_BATCH_PIXELS[device.type] // image_size**2))
    for start in range(0, len(mine), at_once):
        places = mine[start : start + at_once]
        rows[to_device(places, device)] = compute(
            Batch(indices[places], np.full(len(places), view))
        ).float()
    return group.sum_in_place(rows)


def score_logits(logits: torch.Tensor, labels: np.ndarray) -> Score:
    """Loss and accuracy of logits [N, C] against labels [N]."""
    target = torch.from_numpy(labels).to(logits.device)
    loss = F.cross_entropy(logits.double(), target)
    return Score(loss.item(), (logits.argmax(1) == target).double().mean().item())
