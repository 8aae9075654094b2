"""The few operations that differ between one process and several that train together. Alone, each of them does nothing."""

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

    def shard(self, indices: np.ndarray) -> np.ndarray:
        """This process's part; the parts are disjoint and together all of it."""
        return indices[self.rank :: self.size]

    def wrap_module(self, module: nn.Module, device: torch.device) -> nn.Module:
        """The module with gradients averaged over the processes."""
        if self.size == 1:
            return module
        return DistributedDataParallel(
            module, device_ids=[device] if device.type == "cuda" else None
        )

    def sum_in_place(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over the processes, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def broadcast_buffers(self, module: nn.Module) -> None:
        """Give all processes rank 0's buffers: where BatchNorm isn't synchronised, running statistics differ by process."""
        if self.size > 1:
            for buffer in module.buffers():
                dist.broadcast(buffer, src=0)

    def broadcast(self, value: T) -> T:
        """Rank 0's value."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]


SINGLE_WORKER = WorkerGroup()
