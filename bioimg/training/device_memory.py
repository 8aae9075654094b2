"""Copying to a device, and how much of its memory inputs may take."""

import numpy as np
import torch

from bioimg.data.file_array import MAX_MEMORY_SHARE


def to_device(values: np.ndarray | torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return the values on the device.

    To a GPU they are copied from pinned memory, while the GPU computes earlier work.
    """
    tensor = torch.as_tensor(values)
    if tensor.device.type == device.type:
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


def fits_on_device(size: int, device: torch.device) -> bool:
    """Return True if this many bytes may stay on the device.

    On a GPU they may take a quarter of its memory at most, since models need room.
    """
    if device.type == "cpu":
        return True
    _, total = torch.cuda.mem_get_info(device)
    return size <= MAX_MEMORY_SHARE * total
