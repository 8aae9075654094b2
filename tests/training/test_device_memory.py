from types import SimpleNamespace

import psutil
import pytest
import torch

from bioimg.config import ModelConfig
from bioimg.errors import UserError
from bioimg.models.classifier import count_backbone_parameters
from bioimg.results.result_store import ResultStore
from bioimg.training import device_memory
from bioimg.training.device_memory import (
    check_model_fits,
    inference_batch_size,
    ran_out_of_memory,
)
from bioimg.training.trial_recorder import TrialContext
from bioimg.training.trial_runner import run_trial
from support import toys
from support.gpus import set_gpu_memory

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
    set_gpu_memory(monkeypatch, total)
    assert inference_batch_size(image_size, torch.device("cuda")) == images
    bytes_taken = images * 1024 * image_size**2
    assert images == 1 or bytes_taken <= total / 4


@pytest.mark.parametrize("lanes", [2, 3])
def test_lanes_that_share_a_gpu_share_its_memory(monkeypatch, lanes):
    device, limits = torch.device("cuda", 0), {}
    monkeypatch.setattr(
        torch.cuda,
        "set_per_process_memory_fraction",
        lambda share, device: limits.update({device: share}),
    )
    device_memory.limit_memory(1 / lanes, device)
    assert limits[device] * lanes == pytest.approx(0.95), "the rest is for CUDA's contexts"
    set_gpu_memory(monkeypatch, 80 * GIB)
    alone = inference_batch_size(150, device)
    set_gpu_memory(monkeypatch, 80 * GIB, limits[device])
    assert inference_batch_size(150, device) == int(alone * limits[device])
    fitting = int(80 * GIB * limits[device] / 4)
    assert device_memory.fits_on_device(fitting, device)
    assert not device_memory.fits_on_device(fitting + 1, device)


def test_lane_on_a_cpu_has_no_limit():
    device_memory.limit_memory(0.0, torch.device("cpu"))


# models that can't fit


@pytest.mark.parametrize(
    ("freeze", "needed"),
    [
        # ResNet-18 has 11.2 million parameters; training takes 16 bytes each, and frozen ones 4
        ("none", 11.2e6 * 16),
        ("head-first", 11.2e6 * 16),
        # the backbone is copied to compute features
        ("features", 11.2e6 * 8),
        # the last block has 4.7 million
        ("last1", 11.2e6 * 4 + 4.7e6 * 12),
    ],
)
def test_model_must_fit_with_gradients_and_moments_of_what_is_trained(monkeypatch, freeze, needed):
    config = ModelConfig(model="resnet18", weights="none", freeze=freeze, image_size=32)
    set_gpu_memory(monkeypatch, int(needed * 1.05))
    check_model_fits(config, torch.device("cuda"))
    set_gpu_memory(monkeypatch, int(needed * 0.95))
    with pytest.raises(UserError, match=r"`model` is 'resnet18'.*memory.*Freeze more"):
        check_model_fits(config, torch.device("cuda"))


def test_trial_of_a_model_that_cannot_fit_fails_before_its_weights_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=1000))
    trial = toys.trial(model="resnet18", weights="missing.pth")
    store = ResultStore(tmp_path)
    context = TrialContext(experiment_name="toy", store=store, device=torch.device("cpu"))
    assert run_trial(trial, toys.dataset(trial), context, lambda epoch: None) == "failed"
    (row,) = store.tables.trial_rows("trials", trial.key)
    assert "must fit into the memory of the device" in row["error"]


def test_counting_parameters_leaves_the_inspected_model_as_it_is():
    for freeze in ("features", "none", "features"):
        config = ModelConfig(model="resnet18", weights="none", freeze=freeze, image_size=32)
        total, trained = count_backbone_parameters(config)
        assert (trained == total) == (freeze == "none")
