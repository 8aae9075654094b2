"""Trials in float16, whose loss is scaled: on the CPU, where torch does the same as on a GPU."""

import math
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing

from bioimg.results.result_store import ResultStore
from bioimg.training import checkpoints, precision
from bioimg.training.loop import NonFiniteLossError, train
from bioimg.training.trial_recorder import TrialContext
from bioimg.training.trial_runner import run_trial
from bioimg.training.trial_trainer import TrialTrainer
from support import toys

TOO_LARGE = 2.0**40
"""A loss scale at which the gradients of every step overflow."""


def set_loss_scale(trainer: TrialTrainer, scale: float) -> None:
    state = trainer.loss_scaler.state_dict()
    trainer.loss_scaler.load_state_dict({**state, "scale": scale})


def validation_losses(trainer: TrialTrainer) -> list[float]:
    return [epoch.val_loss for epoch in train(trainer)]


def copy_weights(trainer: TrialTrainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trainer.trained_module.state_dict().items()}


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("freeze", ["none", "features"])
def test_float16_trains_close_to_float32(freeze, optimizer):
    fields = {"freeze": freeze, "optimizer": optimizer, "augmentation": "none"}
    half = validation_losses(toys.run(toys.trial(precision="float16", **fields)))
    single = validation_losses(toys.run(toys.trial(**fields)))
    assert half == pytest.approx(single, rel=0.05)
    assert half != single


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_step_whose_gradients_overflow_changes_no_weights_and_is_counted(optimizer):
    trainer = toys.run(toys.trial(precision="float16", optimizer=optimizer, epochs=2))
    set_loss_scale(trainer, TOO_LARGE)
    before = copy_weights(trainer)
    next(train(trainer))
    steps = math.ceil(len(trainer.split.train) / trainer.trial.batch_size)
    assert trainer.loss_scaler.skipped_steps == steps
    assert trainer.loss_scaler.get_scale() == TOO_LARGE / 2**steps
    after = trainer.trained_module.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("epochs", [1, 2])
def test_trial_whose_every_step_overflows_is_an_error(epochs):
    trainer = toys.run(toys.trial(precision="float16", epochs=epochs))
    set_loss_scale(trainer, TOO_LARGE)
    steps = epochs * math.ceil(len(trainer.split.train) / trainer.trial.batch_size)
    with pytest.raises(NonFiniteLossError, match=f"nothing was trained.* in all {steps} steps"):
        list(train(trainer))


def test_row_counts_skipped_steps_in_float16_only(tmp_path):
    for trial in (toys.trial(precision="float16"), toys.trial(precision="bfloat16")):
        context = TrialContext(
            experiment_name="toy", store=ResultStore(tmp_path), device=torch.device("cpu")
        )
        run_trial(trial, toys.dataset(trial), context, lambda epoch: None)
        (row,) = context.store.tables.trial_rows("trials", trial.key)
        assert row["precision_used"] == trial.precision
        assert (row["skipped_steps"] is not None) == (trial.precision == "float16")


def test_resumed_trial_is_equal_to_the_last_bit():
    trial = toys.trial(precision="float16", epochs=4, learning_rate=0.001)
    whole = toys.run(trial)
    set_loss_scale(whole, 2.0**24)
    epochs = train(whole)
    next(epochs)
    skipped = whole.loss_scaler.skipped_steps
    assert skipped, "the scale and the count must have changed"
    content = checkpoints._encode_state(whole.state_dict())
    expected = [epoch.val_loss for epoch in epochs]
    resumed = toys.run(trial)
    state = checkpoints._decode_state(content)
    assert state is not None
    resumed.load_state_dict(state)
    assert resumed.loss_scaler.skipped_steps == skipped
    assert validation_losses(resumed) == expected
    assert resumed.loss_scaler.state_dict() == whole.loss_scaler.state_dict()


def test_collapsed_loss_scale_names_the_way_out():
    trainer = toys.run(toys.trial(precision="float16"))
    trainer.trained_module.fc.weight.register_hook(lambda gradient: gradient * math.inf)
    set_loss_scale(trainer, 4.0)
    message = (
        r"the loss scale of float16 is 0\.125 at epoch 1, but must be at least 1: gradients "
        r"overflowed in 5 steps\. Set `precision` to float32, or lower `learning_rate` \(0\.01\)\."
    )
    with pytest.raises(NonFiniteLossError, match=message):
        list(train(trainer))


@pytest.mark.parametrize("freeze", ["none", "features", "head-first"])
def test_trial_that_moves_to_other_hardware_keeps_its_precision(freeze):
    trial = toys.trial(precision="auto", freeze=freeze, epochs=6, learning_rate=0.001)
    data = toys.dataset(trial)

    def start(auto_precision: str) -> TrialTrainer:
        return TrialTrainer(
            trial,
            data.images,
            data.split,
            device=torch.device("cpu"),
            auto_precision=auto_precision,
        )

    first = start("float16")
    epochs = train(first)
    next(epochs)
    state = checkpoints._decode_state(checkpoints._encode_state(first.state_dict()))
    assert state is not None
    expected = [epoch.val_loss for epoch in epochs]
    moved = start("bfloat16")
    assert moved.dtype == torch.bfloat16
    moved.load_state_dict(state)
    assert moved.dtype == torch.float16
    assert validation_losses(moved) == expected


def test_state_of_version_without_precision_resumes():
    trainer = toys.run(toys.trial(epochs=2))
    next(train(trainer))
    state = trainer.state_dict()
    del state["precision"], state["loss_scaler"]
    resumed = toys.run(trainer.trial)
    resumed.load_state_dict(state)
    assert len(list(train(resumed))) == 1


@pytest.mark.parametrize(
    ("trained_on", "used", "predicted"),
    [
        ("Tesla T4", "float16", torch.float32),
        ("NVIDIA A10G", "bfloat16", torch.float32),
        ("cpu", "bfloat16", torch.bfloat16),
        ("cpu", "float32", torch.float32),
    ],
)
def test_cpu_predicts_in_float32_what_a_gpu_has_trained(trained_on, used, predicted):
    row = {"device": trained_on, "precision_used": used}
    assert precision.prediction_dtype(row, torch.device("cpu")) == predicted
    assert precision.prediction_dtype(row, torch.device("cuda")) == getattr(torch, used)


@pytest.mark.parametrize(
    ("capability", "dtype"),
    [((6, 1), "float32"), ((7, 0), "float16"), ((7, 5), "float16"), ((8, 6), "bfloat16")],
)
def test_gpu_uses_the_type_that_its_tensor_cores_have(capability, dtype, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert precision.fastest_format(torch.device("cuda")) == dtype


# two workers, as real processes


def _overflow_in_second_worker(
    rank: int, meeting: str, queue: "torch.multiprocessing.SimpleQueue[Any]"
) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    group = toys.WorkerGroup(rank, 2)
    trainer = toys.run(toys.trial(precision="float16", epochs=2), group=group)
    set_loss_scale(trainer, 4096.0)
    if rank == 1:
        trainer.trained_module.fc.weight.register_hook(lambda gradient: gradient * math.inf)
    before = copy_weights(trainer)
    next(train(trainer))
    after = trainer.trained_module.state_dict()
    is_unchanged = all(torch.equal(before[name], after[name]) for name in before)
    queue.put((trainer.loss_scaler.get_scale(), trainer.loss_scaler.skipped_steps, is_unchanged))
    dist.destroy_process_group()


@pytest.mark.nightly
def test_overflow_in_one_worker_skips_the_step_in_all(tmp_path):
    queue = torch.multiprocessing.get_context("spawn").SimpleQueue()
    arguments = (str(tmp_path / "meeting"), queue)
    torch.multiprocessing.spawn(_overflow_in_second_worker, arguments, nprocs=2)
    assert [queue.get() for _ in range(2)] == [(128.0, 5, True)] * 2
