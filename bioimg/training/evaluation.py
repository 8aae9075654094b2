"""Run a model over images without training it, and measure how good it is.

Every image counts once, however many workers share the work.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from bioimg.results.score import Score, measure_score
from bioimg.training.batches import Batch
from bioimg.training.device_memory import inference_batch_size, to_device
from bioimg.training.distributed import SINGLE_WORKER, WorkerGroup

BatchFunction = Callable[[Batch], torch.Tensor]
"""Compute outputs [B, W] for a batch."""


class Evaluation(NamedTuple):
    """How good a model is on some images.

    loss: the mean cross-entropy: over images, or over the classes' means for balanced accuracy.
    accuracy: the fraction of images that are classified correctly.
    score: that, or the balanced accuracy.
    correct: bool [N], which images are classified correctly.
    """

    loss: float
    accuracy: float
    score: float
    correct: np.ndarray


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
    batch_size = inference_batch_size(image_size, device)
    for start in range(0, len(own_rows), batch_size):
        rows = own_rows[start : start + batch_size]
        batch = Batch(indices[rows], np.full(len(rows), view))
        outputs[to_device(rows, device)] = compute(batch).float()
    return worker_group.sum_in_place(outputs)


def evaluate_logits(logits: torch.Tensor, labels: np.ndarray, score_used: Score) -> Evaluation:
    """Evaluate logits [N, C] for labels [N]. Classes without an image don't count."""
    targets = torch.from_numpy(labels).to(logits.device)
    class_weights = None
    if score_used == "balanced_accuracy":
        image_counts = np.bincount(labels, minlength=logits.shape[1])
        # with these, PyTorch's weighted mean is the mean over the classes' means
        class_weights = torch.from_numpy(1 / np.maximum(image_counts, 1)).to(logits.device)
    loss = F.cross_entropy(logits.double(), targets, class_weights)
    predictions = logits.argmax(1).cpu().numpy()
    return Evaluation(
        loss=loss.item(),
        accuracy=measure_score(labels, predictions, "accuracy"),
        score=measure_score(labels, predictions, score_used),
        correct=labels == predictions,
    )
