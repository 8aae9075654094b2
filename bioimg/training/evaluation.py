"""Run a model over images without training it, and score it.

Every image counts once, however many workers share the work.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from bioimg.training.batches import Batch
from bioimg.training.device_memory import to_device
from bioimg.training.distributed import SINGLE_WORKER, WorkerGroup

MAX_BATCH_IMAGES = 64
MAX_BATCH_PIXELS = {"cpu": 16 * 150 * 150, "cuda": 64 * 150 * 150}
"""Images, and pixels of images, in a batch outside of training, by the type of device.

They must not need more memory than training. On a CPU, the activations of 16 images of 150 px stay
in its cache; with more, ResNeXt-50 is slower.
"""

BatchFunction = Callable[[Batch], torch.Tensor]
"""Compute outputs [B, W] for a batch."""


class Score(NamedTuple):
    """Mean cross-entropy per image, and the fraction of images that are classified correctly."""

    loss: float
    accuracy: float


@torch.no_grad()
def gather_outputs(
    compute: BatchFunction,
    indices: np.ndarray,
    *,
    view: int = 0,
    image_size: int,
    width: int,
    device: torch.device,
    worker_group: WorkerGroup = SINGLE_WORKER,
) -> torch.Tensor:
    """Return float32 [N, width], the outputs of `compute` for each image, the same on every worker.

    Each row is computed by one worker and zero at the others, so that summing them puts the rows
    together without rounding.
    """
    outputs = torch.zeros(len(indices), width, device=device)
    own_rows = worker_group.shard(np.arange(len(indices)))
    fitting = MAX_BATCH_PIXELS[device.type] // image_size**2
    batch_size = min(MAX_BATCH_IMAGES, max(1, fitting))
    for start in range(0, len(own_rows), batch_size):
        rows = own_rows[start : start + batch_size]
        batch = Batch(indices[rows], np.full(len(rows), view))
        outputs[to_device(rows, device)] = compute(batch).float()
    return worker_group.sum_in_place(outputs)


def score_logits(logits: torch.Tensor, labels: np.ndarray) -> Score:
    """Return the loss and accuracy of logits [N, C] for labels [N]."""
    targets = torch.from_numpy(labels).to(logits.device)
    loss = F.cross_entropy(logits.double(), targets)
    accuracy = (logits.argmax(1) == targets).double().mean()
    return Score(loss.item(), accuracy.item())
