"""Which images a batch holds, in which views, and where it gets their tensors from.

The order and views of an epoch are drawn for whole batches, from the trial's seed and the epoch
alone. So they are the same for any number of workers, and a resumed trial needs no random state.
"""

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
import torch

from bioimg.training.device_memory import to_device
from bioimg.training.distributed import WorkerGroup

VIEW_COUNTS = {"none": 1, "dihedral": 8}
"""Number of views of an image that each augmentation has; view 0 is the unchanged image."""
MIN_BATCH_IMAGES = 2
"""Images that BatchNorm needs where each has one value per channel, as small images have."""


class Batch(NamedTuple):
    """Images by their int64 [B] indices, and the int64 [B] view of each.

    sent: both, int64 [2, B], where they have been sent to a device.
    """

    indices: np.ndarray
    views: np.ndarray
    sent: torch.Tensor | None = None

    def on_device(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Return indices and views on a device. They are only copied if they weren't sent there."""
        sent = self.sent
        if sent is None or sent.device.type != device.type:
            sent = to_device(np.stack([self.indices, self.views]), device)
        indices, views = sent
        return indices, views

    def select(self, positions: np.ndarray) -> "Batch":
        """Return the images at these positions of the batch."""
        return Batch(self.indices[positions], self.views[positions])


class TrainingStep(NamedTuple):
    """A worker's share of a batch, and the factor of its summed loss.

    With this factor, DDP's average over the workers is the mean over the whole batch.
    """

    batch: Batch
    loss_factor: float


class InputSource(Protocol):
    """Provide what the trained module takes: normalised images, or cached features of them."""

    def load_batch(self, batch: Batch) -> torch.Tensor:
        """Return the inputs of a batch on the device: [B, 3, H, W], or [B, F] for features."""
        ...


def draw_epoch(
    indices: np.ndarray,
    labels: np.ndarray,
    *,
    seed: int,
    epoch: int,
    sampling: str,
    augmentation: str,
) -> Batch:
    """Draw the order of an epoch's images, and the view of each.

    Args:
        indices: int64 [M], the training images.
        labels: int64 [N], the classes of all images.
        seed: the trial's seed.
        epoch: the number of the epoch.
        sampling: `shuffle` has every training image once; `balanced` has as many images, drawn with
            replacement, each class equally often.
        augmentation: a key of `VIEW_COUNTS`.
    """
    generator = np.random.default_rng((seed, epoch))
    if sampling == "balanced":
        # imported late: most trials need no weights, and scikit-learn takes a second
        from sklearn.utils.class_weight import compute_sample_weight

        weights = compute_sample_weight("balanced", labels[indices])
        order = generator.choice(indices, len(indices), p=weights / weights.sum())
    else:
        order = generator.permutation(indices)
    views = generator.integers(VIEW_COUNTS[augmentation], size=len(order))
    return Batch(order, views)


def iter_training_steps(
    epoch_images: Batch, batch_size: int, group: WorkerGroup, device: torch.device
) -> Iterator[TrainingStep]:
    """Yield the steps of an epoch as one worker sees them, with their images sent to its device.

    Those of the whole epoch are sent at once, so that no step copies anything.

    Over all workers, every image of the epoch is in one step. Batches are the same for any number
    of workers. A worker has two images of a batch or more, or takes no part in it: BatchNorm can't
    take one.
    """
    steps = []
    for start, stop in batch_bounds(len(epoch_images.indices), batch_size):
        share = group.shard(np.arange(start, stop), min_share=MIN_BATCH_IMAGES)
        if len(share):
            steps.append(TrainingStep(epoch_images.select(share), group.size / (stop - start)))
        else:
            # DDP needs a backward pass from every worker: this one doesn't count
            first = np.arange(start, min(start + MIN_BATCH_IMAGES, stop))
            steps.append(TrainingStep(epoch_images.select(first), 0.0))
    order = np.concatenate([[batch.indices, batch.views] for batch, _ in steps], axis=1)
    sizes = [len(batch.indices) for batch, _ in steps]
    sent = to_device(order, device).split(sizes, dim=1)
    for (batch, loss_factor), batch_sent in zip(steps, sent, strict=True):
        yield TrainingStep(batch._replace(sent=batch_sent), loss_factor)


def batch_bounds(images: int, batch_size: int) -> list[tuple[int, int]]:
    """Return where the batches of an epoch start and stop; the last one may be smaller.

    A last batch of a single image joins the one before it, since BatchNorm can't take it.
    """
    starts = list(range(0, images, batch_size))
    if len(starts) > 1 and images - starts[-1] < MIN_BATCH_IMAGES:
        starts.pop()
    stops = [*starts[1:], images]
    return list(zip(starts, stops, strict=True))
