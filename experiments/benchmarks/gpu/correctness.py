"""Losses as on the CPU, twice the same, what is frozen, resuming, steps that wait."""

import contextlib
import dataclasses
import os
import tempfile
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from benchmarks.gpu.workload import make_trainer, within_steps
from benchmarks.harness import Outcome, Target, local_device
from bioimg.config import DatasetConfig, SplitConfig, TrialConfig
from bioimg.data import load_dataset
from bioimg.data.image_set import Dataset
from bioimg.storage.filesystem import open_storage
from bioimg.training import checkpoint_files, checkpoints
from bioimg.training.loop import train
from bioimg.training.trial_trainer import TrialTrainer

TRAINED_PARTS = {
    "none": {"conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "fc"},
    "layer2": {"layer3", "layer4", "fc"},
    "features": {"fc"},
}
"""What a trial is to change."""
TOLERANCES = {"float32": 0.01, "bfloat16": 0.05, "float16": 0.05}
"""How far a loss may be from that of the CPU in float32, in three epochs.

On a CPU, the order of sums in memory alone changes it by up to 0.003, and bfloat16 by up to 0.016.
"""
KINDS: tuple[dict[str, Any], ...] = (
    {"freeze": "none", "precision": "float32"},
    {"freeze": "none", "precision": "bfloat16"},
    {"freeze": "none", "precision": "float16"},
    {"freeze": "none", "precision": "float32", "optimizer": "sgd"},
    {"freeze": "layer2", "precision": "bfloat16"},
    {"freeze": "features", "precision": "bfloat16"},
)
EPOCHS = 3
SAVED_EPOCH = 1


def measure(small: bool) -> Outcome:
    """Train each kind of trial on the device, in several ways."""
    # cuBLAS reads it when it starts; without it, its products may differ from run to run
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    size = 32 if small else 64
    dataset = load_dataset(DatasetConfig(data="phantom", image_size=size), SplitConfig())
    if small:
        split = dataset.split
        split = dataclasses.replace(split, train=split.train[:48], val=split.val[:16])
        dataset = Dataset(images=dataset.images, split=split)
    rows = []
    for kind in KINDS:
        trial = TrialConfig(
            model="resnext_tiny",
            weights="TEXTURES_V2",
            image_size=size,
            epochs=EPOCHS,
            learning_rate=5e-4,
            **kind,
        )
        name = f"{trial.freeze} {trial.optimizer}"
        row = {"trial": name, "format": trial.precision, **check_trial(trial, dataset)}
        rows.append(row)
    return Outcome("Trials on the device", rows, correctness_targets(rows))


def check_trial(trial: TrialConfig, dataset: Dataset) -> dict[str, Any]:
    """Train a trial on the CPU and several times on the device.

    Return how far its losses are apart, which parts of the model it changed that it shouldn't or
    didn't that it should, and why a step waits.
    """
    reference = dataclasses.replace(trial, precision="float32")
    images, split = dataset.images, dataset.split
    expected = losses(TrialTrainer(reference, images, split, device=torch.device("cpu")))

    def make() -> TrialTrainer:
        return make_trainer(trial, images, split)

    with deterministic_algorithms():
        trainer = make()
        state = trainer.classifier.model.state_dict()
        before = {name: tensor.clone() for name, tensor in state.items()}
        first, second = losses(trainer), losses(make())
        after = trainer.classifier.model.state_dict()
        changed = {
            name.split(".")[0]
            for name, tensor in after.items()
            if not torch.equal(tensor, before[name])
        }
        resumed = resumed_losses(make(), make())
    return {
        "from CPU": float(abs(first - expected).max()),
        "twice": float(abs(first - second).max()),
        "resumed": float(abs(first - resumed).max()),
        "wrong parts": " ".join(changed ^ TRAINED_PARTS[trial.freeze]),
        "waits": find_wait(make()),
    }


def losses(trainer: TrialTrainer) -> np.ndarray:
    """Train to the end. Return the losses of each epoch, [epochs, 2]."""
    return np.array([(epoch.train_loss, epoch.val_loss) for epoch in train(trainer)])


def resumed_losses(interrupted: TrialTrainer, resumed: TrialTrainer) -> np.ndarray:
    """Return the losses of a trial that is interrupted and goes on from its state on the disk."""
    with tempfile.TemporaryDirectory() as folder:
        storage = open_storage(folder)
        for epoch in train(interrupted):
            if epoch.epoch == SAVED_EPOCH:
                name = checkpoint_files.next_state_file("trial", None)
                checkpoints.save_state(interrupted, storage, name)
                break
        checkpoints.load_state(resumed, storage, "trial")
    later = losses(resumed)
    earlier = [(epoch.train_loss, epoch.val_loss) for epoch in interrupted.history]
    return np.concatenate([earlier, later])


def find_wait(trainer: TrialTrainer) -> str:
    """Return the error of a step that waits for the GPU; nothing if none does."""
    has_gpu = local_device().type == "cuda"
    set_mode = torch.cuda.set_sync_debug_mode if has_gpu else lambda mode: None

    @contextlib.contextmanager
    def refuse_to_wait(number: int) -> Iterator[None]:
        set_mode("error")
        yield
        set_mode("default")

    try:
        with within_steps(refuse_to_wait):
            list(train(trainer))
    except RuntimeError as error:
        return str(error).splitlines()[0]
    finally:
        set_mode("default")
    return ""


@contextlib.contextmanager
def deterministic_algorithms() -> Iterator[None]:
    """Use algorithms that give the same numbers twice, where there are any."""
    torch.backends.cudnn.deterministic = True
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*deterministic")
            yield
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.deterministic = False


def correctness_targets(rows: list[dict[str, Any]]) -> list[Target]:
    """Return a target for each question, with the figure of the worst trial."""
    targets = []
    for name, limit in TOLERANCES.items():
        worst = max(row["from CPU"] for row in rows if row["format"] == name)
        what = f"losses in {name} from those of the CPU"
        targets.append(Target(what, worst, limit, "", at_most=True))
    for column, what in (
        ("twice", "losses of two runs, deterministic"),
        ("resumed", "losses of a resumed run"),
    ):
        worst = max(row[column] for row in rows)
        targets.append(Target(f"{what}, apart by", worst, 0, "", at_most=True))
    for column, what in (
        ("wrong parts", "changed others than the trained layers"),
        ("waits", "a step waits for the GPU"),
    ):
        trials = sum(bool(row[column]) for row in rows)
        targets.append(Target(what, trials, 0, "trials", at_most=True))
    return targets
