"""Copying to a device, how much of its memory inputs may take, and whether it ran out."""

import numpy as np
import psutil
import torch

from bioimg.config import ModelConfig
from bioimg.data.file_array import MAX_MEMORY_SHARE
from bioimg.errors import UserError
from bioimg.models.classifier import count_backbone_parameters

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
FLOAT_BYTES = 4
SHARED_GPU_MEMORY = 0.95
"""What processes that share a GPU may take together, without the context that CUDA makes for each.

A context takes a few hundred MiB.
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


def limit_memory(share: float, device: torch.device) -> None:
    """Have this process use no more than a share of a GPU's memory, as others use the rest."""
    if device.type == "cuda":
        torch.cuda.set_per_process_memory_fraction(SHARED_GPU_MEMORY * share, device)


def fits_on_device(size: int, device: torch.device) -> bool:
    """Return True if this many bytes may stay on the device.

    On a GPU they may take a quarter of its memory at most, since models need room.
    """
    if device.type == "cpu":
        return True
    return size <= MAX_MEMORY_SHARE * total_memory(device)


def check_model_fits(config: ModelConfig, device: torch.device) -> None:
    """Check that a model can be trained in all the memory that a device has.

    Its weights are counted and, for what is trained, gradients and AdamW's two moments; or the copy
    that computes features. Activations aren't, so that a model that passes may still be too large.

    Raises:
        UserError: it needs more.
    """
    parameters, trained = count_backbone_parameters(config)
    copied = parameters if config.freeze in ("features", "head-first") else 0
    needed = FLOAT_BYTES * (parameters + max(3 * trained, copied))
    total = total_memory(device)
    if needed > total:
        raise UserError(
            f"the value of `model` is {config.model!r}, but must fit into the memory of the "
            f"device, which has {total / 2**30:.1f} GiB: weights, gradients and the optimizer's "
            f"moments take {needed / 2**30:.1f} GiB. Freeze more, or choose a smaller model or a "
            "larger device."
        )


def total_memory(device: torch.device) -> int:
    """Return the bytes of memory that this process may use of a device, used or free."""
    if device.type == "cpu":
        return psutil.virtual_memory().total
    share = torch.cuda.get_per_process_memory_fraction(device)
    return int(share * torch.cuda.mem_get_info(device)[1])


def inference_batch_size(image_size: int, device: torch.device) -> int:
    """Return how many images of this size a batch outside of training holds.

    On a GPU their activations take a quarter of its memory at most.
    """
    if device.type == "cpu":
        return min(CPU_BATCH_IMAGES, max(1, CPU_BATCH_PIXELS // image_size**2))
    fitting = int(MAX_MEMORY_SHARE * total_memory(device)) // (GPU_BYTES_PER_PIXEL * image_size**2)
    return min(GPU_BATCH_IMAGES, max(1, fitting))


def ran_out_of_memory(error: Exception) -> bool:
    """Return True if an error says that memory ran out: Python's, torch's or a CUDA library's."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return any(text in str(error) for text in OUT_OF_MEMORY_TEXTS)
