import pytest
import torch

from bioimg.training.device_memory import inference_batch_size, ran_out_of_memory

GIB = 2**30


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 784.00 MiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("NCCL error: unhandled cuda error. Last error: Cuda failure 'out of memory'"),
        RuntimeError("NCCL error. Last error: Failed to CUDA calloc async 4194304 bytes"),
    ],
    ids=str,
)
def test_errors_of_each_library_that_ran_out_of_memory_are_recognised(error):
    assert ran_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: CUBLAS_STATUS_NOT_SUPPORTED"),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
        ValueError("the loss is nan at epoch 3"),
    ],
    ids=str,
)
def test_other_errors_are_not_taken_for_a_lack_of_memory(error):
    assert not ran_out_of_memory(error)


@pytest.mark.parametrize(("image_size", "images"), [(32, 64), (150, 16), (300, 4), (2000, 1)])
def test_batch_outside_of_training_stays_in_the_cache_of_a_cpu(image_size, images):
    assert inference_batch_size(image_size, torch.device("cpu")) == images


@pytest.mark.parametrize(
    ("gibibytes", "image_size", "images"),
    [(80, 32, 1024), (80, 150, 932), (16, 150, 186), (16, 600, 11), (4, 2000, 1)],
)
def test_batch_outside_of_training_takes_a_quarter_of_a_gpu(
    monkeypatch, gibibytes, image_size, images
):
    total = gibibytes * GIB
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (total, total))
    assert inference_batch_size(image_size, torch.device("cuda")) == images
    bytes_taken = images * 1024 * image_size**2
    assert images == 1 or bytes_taken <= total / 4
