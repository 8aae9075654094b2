"""The few operations that differ between one process and several that train together.

In a group of one, each of them does nothing.
"""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

T = TypeVar("T")


@dataclass(frozen=True)
class WorkerGroup:
    """The processes that share each batch. All of them make the same calls in the same order."""

    rank: int = 0
    size: int = 1

    def shard(self, indices: np.ndarray, min_share: int = 1) -> np.ndarray:
        """Return this process's share. The shares are disjoint and together complete.

        Where there isn't `min_share` for every process, the last ones get nothing.
        """
        sharing = max(1, min(self.size, len(indices) // min_share))
        return indices[self.rank :: sharing] if self.rank < sharing else indices[:0]

    def wrap_module(self, module: nn.Module, device: torch.device) -> nn.Module:
        """Return the module with gradients averaged over the processes."""
        if self.size == 1:
            return module
        device_ids = [device] if device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=device_ids)

    def sum_in_place(self, tensor: torch.Tensor) -> torch.Tensor:
        """Replace the tensor by its sum over the processes, and return it."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def broadcast_buffers(self, module: nn.Module) -> None:
        """Give all processes the first one's buffers.

        Where BatchNorm isn't synchronised, its running statistics differ between processes.
        """
        if self.size > 1:
            for buffer in module.buffers():
                dist.broadcast(buffer, src=0)

    def broadcast(self, value: T) -> T:
        """Return the first process's value."""
        if self.size == 1:
            return value
        container = [value]
        dist.broadcast_object_list(container, src=0)
        return container[0]


SINGLE_WORKER = WorkerGroup()
