"""Training on tensors that seem to be on a GPU: torch's fake tensors have a device, but no values.

They show what mixes devices, what stayed on the CPU and which step waits for the GPU. A backward
pass needs a real GPU, so gradients are made up.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bioimg.config import TrialConfig
from bioimg.training import image_batches, loop
from bioimg.training.feature_cache import release_feature_caches
from bioimg.training.trial_trainer import TrialTrainer
from support import toys

CUDA = torch.device("cuda", 0)
AMPERE, TURING = (8, 6), (7, 5)
"""Compute capabilities of GPUs that are fast in bfloat16, and of some that are in float16 only."""
LARGE_MEMORY, SMALL_MEMORY = 80 * 2**30, 4096
"""Bytes of a GPU on which all images stay, and of one on which they don't."""


class StepWatch(TorchDispatchMode):
    """Refuse what makes a training step wait for the GPU."""

    in_step = False
    steps = 0
    copies = 0
    """Tensors that steps copied to the GPU."""

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        if args and isinstance(args[0], FakeTensor) and args[0].device.type == "cuda":
            devices = {leaf.device.type for leaf in tree_leaves(result) if torch.is_tensor(leaf)}
            self.require_no_wait("cpu" not in devices, function)
        if function == torch.ops.aten._to_copy.default and result.device.type == "cuda":
            self.copies += self.in_step and args[0].device.type == "cpu"
        return result

    def require_no_wait(self, holds: bool, what: object) -> None:
        assert holds or not self.in_step, f"a step waits for the GPU: {what}"

    def watch_steps(self, *args: Any) -> Iterator[Any]:
        """Yield the steps of an epoch."""
        for step in iter_training_steps(*args):
            self.in_step = True
            yield step
            self.in_step = False
            self.steps += 1


iter_training_steps = loop.iter_training_steps


def copy_tensor(tensor: torch.Tensor, memo: object) -> torch.Tensor:
    """Return a deep copy, as torch makes of tensors with values."""
    copied = tensor.detach().clone()
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(copied, tensor.requires_grad)
    return copied


def swap_tensors(first: torch.Tensor, second: torch.Tensor) -> None:
    """Swap as torch does when a module moves, but also tensors that a fake mode refers to."""
    first.__dict__, second.__dict__ = second.__dict__, first.__dict__
    torch._C._swap_tensor_impl(first, second)


@contextlib.contextmanager
def fake_cuda(memory: int, capability: tuple[int, int] = AMPERE) -> Iterator[StepWatch]:
    """Make this process seem to have a GPU with so many bytes, of a compute capability."""
    watch = StepWatch()
    step = torch.amp.GradScaler.step

    def item(tensor: torch.Tensor) -> float:
        watch.require_no_wait(False, "item")
        return 1.0 if tensor.dtype.is_floating_point else 1

    def numpy(tensor: torch.Tensor) -> np.ndarray:
        assert tensor.device.type == "cpu"
        return np.zeros(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))

    def backward(loss: torch.Tensor) -> None:
        assert loss.requires_grad
        assert loss.device == CUDA

    def step_with_gradients(
        scaler: torch.amp.GradScaler, optimizer: torch.optim.Optimizer
    ) -> float | None:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.empty_like(parameter)
        return step(scaler, optimizer)

    patches = [
        (torch.cuda, "mem_get_info", lambda device: (memory, memory)),
        (torch.cuda, "get_per_process_memory_fraction", lambda device: 1.0),
        (torch.cuda, "get_device_name", lambda device: "a fake"),
        (torch.cuda, "get_device_capability", lambda device: capability),
        (torch.cuda, "is_bf16_supported", lambda: True),
        (torch.amp.GradScaler, "step", step_with_gradients),
        (torch, "_fused_sgd_", lambda *args, **options: None),  # torch has no fake of it
        (torch.utils, "swap_tensors", swap_tensors),
        (torch.cuda.amp.common, "amp_definitely_not_available", lambda: False),
        (torch.Tensor, "pin_memory", lambda tensor: tensor),
        (torch.Tensor, "backward", backward),
        (FakeTensor, "__deepcopy__", copy_tensor),
        (FakeTensor, "item", item),
        (FakeTensor, "numpy", numpy),
        (loop, "iter_training_steps", watch.watch_steps),
        (image_batches, "_resident_by_key", {}),
    ]
    image_batches.view_pixels.cache_clear()
    release_feature_caches()
    try:
        with contextlib.ExitStack() as stack:
            for target, name, replacement in patches:
                stack.enter_context(mock.patch.object(target, name, replacement, create=True))
            stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
            yield stack.enter_context(watch)
    finally:
        image_batches.view_pixels.cache_clear()
        release_feature_caches()


@pytest.fixture(scope="module", autouse=True)
def _working_fakes() -> None:
    """Skip these tests if parts of torch that it doesn't promise to keep have changed."""
    try:
        with fake_cuda(LARGE_MEMORY):
            module = nn.Conv2d(3, 4, 1).to(CUDA)
            module(torch.empty(1, 3, 2, 2, device=CUDA))
    except Exception as error:
        pytest.skip(f"torch {torch.__version__} has other fake tensors: {error!r}")


def train_fake(
    trial: TrialConfig, memory: int, capability: tuple[int, int] = AMPERE
) -> tuple[TrialTrainer, StepWatch]:
    """Train and test a trial on a fake GPU. Return its trainer and what watched its steps."""
    dataset = toys.dataset(trial, toys.images(size=32))
    with fake_cuda(memory, capability) as watch:
        trainer = TrialTrainer(trial, dataset.images, dataset.split, device=CUDA)
        list(loop.train(trainer))
        trainer.restore_best()
        trainer.evaluate(dataset.split.test)
    return trainer, watch


def fake_trial(**fields: object) -> TrialConfig:
    return toys.trial(
        model="resnext_tiny",
        image_size=32,
        batch_size=16,
        epochs=2,
        augmentation="dihedral",
        precision="auto",
        class_weights="balanced",
        **fields,
    )


@pytest.mark.parametrize("memory", [LARGE_MEMORY, SMALL_MEMORY], ids=["resident", "copied"])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("freeze", ["none", "layer2", "features"])
def test_training_on_a_gpu_mixes_no_devices_and_no_step_waits(freeze, optimizer, memory):
    trial = fake_trial(freeze=freeze, optimizer=optimizer)
    trainer, watch = train_fake(trial, memory)
    assert watch.steps == 2 * -(-len(trainer.split.train) // 16)
    copied = {LARGE_MEMORY: 0, SMALL_MEMORY: watch.steps}
    assert watch.copies == copied[memory], "images or features only, and only if they must be"
    learner = tree_leaves(trainer.trained_module.state_dict())
    assert {tensor.device for tensor in learner} == {CUDA}
    images = [tensor for tensor in learner if tensor.dim() == 4]
    assert all(tensor.is_contiguous(memory_format=torch.channels_last) for tensor in images)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_gpu_without_bfloat16_trains_in_float16_and_no_step_waits(optimizer):
    trainer, watch = train_fake(fake_trial(optimizer=optimizer), LARGE_MEMORY, TURING)
    assert watch.steps
    assert watch.copies == 0
    assert trainer.dtype == torch.float16
    assert trainer.loss_scaler.is_enabled()


def test_step_that_waits_for_the_gpu_is_noticed(monkeypatch):
    forward = TrialTrainer.forward

    def wait_for_logits(trainer: TrialTrainer, batch: Any) -> torch.Tensor:
        logits = forward(trainer, batch)
        logits.sum().item()
        return logits

    monkeypatch.setattr(TrialTrainer, "forward", wait_for_logits)
    with pytest.raises(AssertionError, match="a step waits for the GPU: item"):
        train_fake(fake_trial(freeze="none"), LARGE_MEMORY)


def test_input_that_stayed_on_the_cpu_is_noticed(monkeypatch):
    load_batch = image_batches.ImageBatches.load_batch
    monkeypatch.setattr(
        image_batches.ImageBatches,
        "load_batch",
        lambda source, batch: load_batch(source, batch).to("cpu"),
    )
    with pytest.raises((AssertionError, RuntimeError), match=r"waits for the GPU|cpu"):
        train_fake(dataclasses.replace(fake_trial(freeze="none"), epochs=1), LARGE_MEMORY)
