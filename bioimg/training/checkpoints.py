"""A trial's tensors on disk: its state, and the weights of its best epoch.

Reading them runs no code. `checkpoint_files` names the files.
"""

import io
import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch.serialization import set_crc32_options

from bioimg.config import TrialConfig
from bioimg.errors import CorruptFileError, UserError
from bioimg.models.checked_safetensors import SavedModel, decode_tensors, encode_tensors
from bioimg.models.feature_extractor import backbone_digest
from bioimg.models.low_rank import merged_state
from bioimg.results.result_store import CHECKPOINTS_FOLDER, ResultStore
from bioimg.storage import checksums
from bioimg.storage.filesystem import Storage, join_path
from bioimg.training import precision
from bioimg.training.checkpoint_files import (
    BEST_MODEL_FILE,
    has_state,
    next_state_file,
    shorter_trial_keys,
    state_files,
)
from bioimg.training.trial_trainer import TrialTrainer

log = logging.getLogger("bioimg")


def save_state(trainer: TrialTrainer, storage: Storage, name: str) -> None:
    """Write everything needed to resume into a file: not that with the latest state.

    This doesn't wait for the disk: a state damaged by a power failure is found by its checksum, and
    the other one is used.
    """
    state = trainer.state_dict()
    if trainer.best_epoch == len(trainer.history):
        state["best"] = state["learner"]  # the same tensors, written only once
    storage.write(name, _encode_state(state), flush=False)


def load_state(trainer: TrialTrainer, storage: Storage, trial_folder: str) -> str | None:
    """Resume from the latest state. Return the name of its file; None if there is no state.

    If the latest state is damaged, the other one is used.
    """
    for name, state in read_states(storage, trial_folder):
        trainer.load_state_dict(state)
        return name
    return None


def load_history(storage: Storage, trial_folder: str) -> tuple[list[dict[str, Any]], str | None]:
    """Return the epochs that `load_state` would find, and the trial that they were inherited from.

    The latter is the key of the shorter trial that trained the first of them, if any.
    """
    for _, state in read_states(storage, trial_folder):
        return state["history"], state["continued_from"]
    return [], None


def find_or_inherit_state(trial: TrialConfig, store: ResultStore) -> bool:
    """Return True if `load_state` will find a state.

    A trial without one first gets the state of the longest shorter trial that has one.
    """
    storage = store.storage
    trial_folder = store.checkpoint_folder(trial.key)
    if any(storage.size(name) is not None for name in state_files(trial_folder)):
        return True
    for key in shorter_trial_keys(trial):
        if not has_state(store, key):
            continue
        for _, state in read_states(storage, store.checkpoint_folder(key)):
            inherited = _encode_state({**state, "continued_from": key})
            storage.write(next_state_file(trial_folder, None), inherited, flush=False)
            return True
    return False


def save_completed(
    trainer: TrialTrainer, storage: Storage, trial_folder: str, keep: str, latest: str
) -> list[str]:
    """Write the model with the metadata that predicting needs, unless `keep` is `none`.

    The state of a head on a frozen backbone is small. It stays, since a longer trial can continue
    from it.

    latest: the file with the trial's last state.

    Returns:
        The states that aren't kept. The caller deletes them after writing the row: a trial that is
        killed without a row and without a state would be trained again.
    """
    if keep != "none":
        _write_best_model(trainer, storage, trial_folder)
    trial = trainer.trial
    if keep == "best" and trial.freeze == "features" and trial.schedule == "constant":
        return _flush_state(storage, trial_folder, latest)
    return [] if keep == "all" else state_files(trial_folder)


def save_stopped(
    trainer: TrialTrainer, storage: Storage, trial_folder: str, keep: str, latest: str
) -> list[str]:
    """Keep the state that a stopped trial can be finished from; if `keep` is `all`, its model too.

    latest: the file with this state.

    Returns:
        The states that aren't kept, which the caller deletes after writing the row.
    """
    if keep == "none":
        return state_files(trial_folder)
    if keep == "all":
        trainer.restore_best()
        _write_best_model(trainer, storage, trial_folder)
        return []
    return _flush_state(storage, trial_folder, latest)


def load_best_model(storage: Storage, trial_folder: str) -> SavedModel:
    """Return the complete model of a trial's best epoch, even if the trial stored only its head.

    Raises:
        UserError: it wasn't kept, or a file is damaged.
    """
    saved = _read_model(storage, f"{trial_folder}/{BEST_MODEL_FILE}")
    if "backbone" not in saved.metadata:
        return saved
    backbone = _read_model(storage, _backbone_file(saved.metadata["backbone"]))
    return SavedModel({**backbone.tensors, **saved.tensors}, saved.metadata)


def _write_best_model(trainer: TrialTrainer, storage: Storage, trial_folder: str) -> None:
    metadata = _model_metadata(trainer)
    tensors = merged_state(trainer.classifier.model)
    if trainer.trial.freeze == "features":
        head_prefix = f"{trainer.classifier.head_name}."
        backbone = {name: t for name, t in tensors.items() if not name.startswith(head_prefix)}
        tensors = {name: t for name, t in tensors.items() if name.startswith(head_prefix)}
        metadata["backbone"] = _write_backbone(trainer, backbone, storage)
    content = encode_tensors(tensors, metadata)
    storage.write(f"{trial_folder}/{BEST_MODEL_FILE}", content)


def _model_metadata(trainer: TrialTrainer) -> dict[str, Any]:
    trial = trainer.trial
    return {
        "model": trial.model,
        "image_size": trial.image_size,
        "resize": trial.resize,
        "channels": trial.channels,
        "scaling": trainer.images.scaling_limits,
        "classes": list(trainer.images.classes),
        "normalisation": trainer.normalisation,
        "precision": precision.dtype_name(trainer.dtype),
    }


def _write_backbone(
    trainer: TrialTrainer, tensors: Mapping[str, torch.Tensor], storage: Storage
) -> str:
    """Write a frozen backbone unless its file exists. Return its digest."""
    digest = backbone_digest(trainer.classifier)
    file = _backbone_file(digest)
    # if several lanes find no file, all of them write the same one
    if storage.size(file) is None:
        metadata = {"model": trainer.trial.model, "normalisation": trainer.normalisation}
        storage.write(file, encode_tensors(tensors, metadata))
    return digest


def _backbone_file(digest: str) -> str:
    return f"{CHECKPOINTS_FOLDER}/backbones/{digest}.safetensors"


def _read_model(storage: Storage, name: str) -> SavedModel:
    path = join_path(str(storage), name)
    try:
        return decode_tensors(storage.read(name))
    except FileNotFoundError:
        raise UserError(
            f"there is no {path}. Weights are kept with --keep best (the default) or --keep all."
        ) from None
    except CorruptFileError as error:
        raise UserError(
            f"{path} is damaged ({error}). Replace it by a copy, or run the experiment again into "
            "another folder."
        ) from error


def read_states(storage: Storage, trial_folder: str) -> list[tuple[str, dict[str, Any]]]:
    """Read the states of a trial and the names of their files, the latest first.

    Damaged ones are deleted.
    """
    states = []
    for name in state_files(trial_folder):
        try:
            content = storage.read(name)
        except FileNotFoundError:
            continue
        if (state := _decode_state(content)) is not None:
            states.append((name, state))
            continue
        path = join_path(str(storage), name)
        log.warning("%s is damaged. The trial resumes from another state, if there is one.", path)
        storage.delete(name)
    return sorted(states, key=lambda item: len(item[1]["history"]), reverse=True)


def _flush_state(storage: Storage, trial_folder: str, name: str) -> list[str]:
    """Flush a state to the disk. Return the other one, which isn't needed any more."""
    content = storage.read(name)
    if _decode_state(content) is None:
        return []
    storage.write(name, content)
    return [next_state_file(trial_folder, name)]


def _encode_state(state: dict[str, Any]) -> memoryview:
    """Return a checksum, followed by the output of `torch.save`.

    That is a ZIP file, whose own, slower checksums don't cover its headers.
    """
    buffer = io.BytesIO()
    buffer.write(bytes(checksums.DIGEST_BYTES))
    set_crc32_options(False)
    torch.save(state, buffer)
    content = buffer.getbuffer()
    checksums.seal_in_place(content)
    return content


def _decode_state(content: bytes) -> dict[str, Any] | None:
    """Return the state that `_encode_state` was given; None if it didn't return these bytes."""
    try:
        packed = checksums.unseal(content)
    except CorruptFileError:
        return None
    return torch.load(io.BytesIO(packed), map_location="cpu", weights_only=True)
