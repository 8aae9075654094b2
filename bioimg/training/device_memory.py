"""Copying to a device, how much of its memory inputs may take, and whether it ran out."""

import numpy as np
import torch

from bioimg.data.file_array import MAX_MEMORY_SHARE

CPU_BATCH_IMAGES = 64
CPU_BATCH_PIXELS = 16 * 150 * 150
"""Images, and pixels of images, in a batch outside of training.

The activations of 16 images of 150 px stay in a CPU's cache; with more, ResNeXt-50 is slower.
"""
GPU_BATCH_IMAGES = 1024
GPU_BYTES_PER_PIXEL = 1024
"""Memory for each pixel of an image outside of training: four tensors of 64 channels in float32.

Those are the first layers of VGG, which need the most.
"""
OUT_OF_MEMORY_TEXTS = (
    "can't allocate memory",  # torch, on a CPU
    "out of memory",  # the driver, also in errors of NCCL
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "Failed to CUDA calloc",  # NCCL
)


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


def inference_batch_size(image_size: int, device: torch.device) -> int:
    """Return how many images of this size a batch outside of training holds.

    On a GPU their activations take a quarter of its memory at most.
    """
    if device.type == "cpu":
        return min(CPU_BATCH_IMAGES, max(1, CPU_BATCH_PIXELS // image_size**2))
    _, total = torch.cuda.mem_get_info(device)
    fitting = int(MAX_MEMORY_SHARE * total) // (GPU_BYTES_PER_PIXEL * image_size**2)
    return min(GPU_BATCH_IMAGES, max(1, fitting))


def ran_out_of_memory(error: Exception) -> bool:
    """Return True if an error says that memory ran out: Python's, torch's or a CUDA library's."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return any(text in str(error) for text in OUT_OF_MEMORY_TEXTS)
