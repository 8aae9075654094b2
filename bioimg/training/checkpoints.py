"""A trial's tensors on disk: its state, and the weights of its best epoch. Reading them runs no code.

resume.pt            everything needed to resume after the latest epoch; resume.previous.pt: after the one before
best.safetensors     the model at its best epoch; if its backbone was frozen, only the head, which names the backbone
backbones/           these frozen backbones, next to the folders of the trials, each stored once
"""

import io
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
import xxhash
from torch.serialization import set_crc32_options

from bioimg.config import TrialConfig
from bioimg.errors import CorruptFileError, UserError
from bioimg.models.checked_safetensors import SavedModel, decode_tensors, encode_tensors
from bioimg.models.feature_extractor import backbone_digest
from bioimg.results.result_store import CHECKPOINTS_FOLDER, ResultStore
from bioimg.storage.filesystem import Storage, join_path
from bioimg.training import precision
from bioimg.training.trial_trainer import TrialTrainer

STATE_FILE, PREVIOUS_STATE_FILE, BEST_MODEL_FILE = (
    "resume.pt",
    "resume.previous.pt",
    "best.safetensors",
)
CHECKSUM_BYTES = xxhash.xxh3_128().digest_size

log = logging.getLogger("bioimg")


def save_state(run: TrialTrainer, files: Storage, under: str) -> None:
    """Write everything needed to resume, and keep the state before as the previous one.

    This doesn't wait for the disk: a state damaged by a power failure is found by its checksum, and the previous one is used.
    """
    state = run.state_dict()
    if run.best_epoch == len(run.history):
        state["best"] = state["learner"]  # the same tensors, written only once
    content = _encode_state(state)
    if files.size(f"{under}/{STATE_FILE}") is not None:
        files.move(f"{under}/{STATE_FILE}", f"{under}/{PREVIOUS_STATE_FILE}")
    files.write(f"{under}/{STATE_FILE}", content, flush=False)


def load_state(run: TrialTrainer, files: Storage, under: str) -> None:
    """Resume from what `save` wrote: the previous state if the latest is damaged; from the start if there is none."""
    if state := _read_state(files, under):
        run.load_state_dict(state)


def load_history(files: Storage, under: str) -> tuple[list[dict[str, Any]], str | None]:
    """The epochs that `load` would find, and the key of the shorter trial that trained the first of them."""
    state = _read_state(files, under) or {}
    return state.get("history", []), state.get("continued_from")


def find_or_inherit_state(trial: TrialConfig, store: ResultStore) -> bool:
    """Whether `load` will find a state. A trial without one gets that of the longest shorter trial that has one."""
    files, under = store.storage, store.checkpoint_folder(trial.key)
    if any(files.size(f"{under}/{name}") is not None for name in (STATE_FILE, PREVIOUS_STATE_FILE)):
        return True
    for key in shorter_trial_keys(trial):
        if has_state(store, key) and (state := _read_state(files, store.checkpoint_folder(key))):
            files.write(
                f"{under}/{STATE_FILE}",
                _encode_state({**state, "continued_from": key}),
                flush=False,
            )
            return True
    return False


def has_state(store: ResultStore, key: str) -> bool:
    """Whether an earlier run left the state of a trial."""
    return f"{store.checkpoint_folder(key)}/{STATE_FILE}" in store.earlier_checkpoints


def shorter_trial_keys(trial: TrialConfig) -> Iterator[str]:
    """Keys of trials that differ in having fewer epochs, the longest first.

    While the learning rate is constant, their epochs are the first ones of this trial to the last bit.
    """
    if trial.schedule == "constant":
        yield from (replace(trial, epochs=epochs).key for epochs in range(trial.epochs - 1, 0, -1))


def save_completed(run: TrialTrainer, files: Storage, under: str, keep: str) -> list[str]:
    """Write the model with the metadata that predicting needs, unless `keep` is none. Returns the states that aren't kept.

    The caller deletes them after writing the row: a trial that is killed with neither would be trained again.
    The state of a head on a frozen backbone is small. It stays, since a longer trial can continue from it.
    """
    if keep != "none":
        _write_best_model(run, files, under)
    if keep == "best" and run.trial.freeze == "features" and run.trial.schedule == "constant":
        return _flush_latest_state(files, under)
    return [] if keep == "all" else state_files(under)


def save_stopped(run: TrialTrainer, files: Storage, under: str, keep: str) -> list[str]:
    """Keep the state that a stopped trial can be finished from; with `all` its best epoch too. Returns those not kept."""
    if keep == "none":
        return state_files(under)
    if keep == "all":
        run.restore_best()
        _write_best_model(run, files, under)
        return []
    return _flush_latest_state(files, under)


def state_files(under: str) -> list[str]:
    """The files with the states of a trial."""
    return [f"{under}/{STATE_FILE}", f"{under}/{PREVIOUS_STATE_FILE}"]


def delete_states(files: Storage, under: str) -> None:
    """Delete the states of a trial."""
    for name in state_files(under):
        files.delete(name)


def delete_leftover_states(store: ResultStore, trials: Iterable[TrialConfig]) -> None:
    """Delete states of trials that were killed after writing their row and before deleting them: its `bytes` omits these."""
    sizes, keys = store.storage.sizes(CHECKPOINTS_FOLDER), {trial.key for trial in trials}
    for row in store.tables.all_rows("trials"):
        if row["key"] in keys and row["status"] != "failed" and row["bytes"] is not None:
            _delete_states_beyond(
                row["bytes"], store.checkpoint_folder(row["key"]), sizes, store.storage
            )


def _delete_states_beyond(most: int, under: str, sizes: Mapping[str, int], files: Storage) -> None:
    taken = sum(size for name, size in sizes.items() if name.startswith(f"{under}/"))
    for name in reversed(state_files(under)):
        if name in sizes and taken > most:
            files.delete(name)
            taken -= sizes[name]


def load_best_model(files: Storage, under: str) -> SavedModel:
    """The complete model of a trial's best epoch, also if the trial has stored only its head.

    Raises:
        UserError: it wasn't kept, or a file is damaged.
    """
    own = _read_model(files, f"{under}/{BEST_MODEL_FILE}")
    if "backbone" not in own.metadata:
        return own
    return SavedModel(
        {**_read_model(files, _backbone_file(own.metadata["backbone"])).tensors, **own.tensors},
        own.metadata,
    )


def _write_best_model(run: TrialTrainer, files: Storage, under: str) -> None:
    about: dict[str, Any] = {
        "model": run.trial.model,
        "image_size": run.trial.image_size,
        "resize": run.trial.resize,
        "channels": run.trial.channels,
        "scaling": run.images.scaling_limits,
        "classes": list(run.images.classes),
        "normalisation": run.normalisation,
        "precision": precision.dtype_name(run.dtype),
    }
    tensors = run.classifier.model.state_dict()
    if run.trial.freeze == "features":
        about["backbone"] = backbone_digest(run.classifier)
        head = {
            name: tensor
            for name, tensor in tensors.items()
            if name.startswith(f"{run.classifier.head_name}.")
        }
        if (
            files.size(name := _backbone_file(about["backbone"])) is None
        ):  # if several lanes see this, all write the same
            rest = {name: tensor for name, tensor in tensors.items() if name not in head}
            files.write(
                name,
                encode_tensors(
                    rest, {"model": run.trial.model, "normalisation": run.normalisation}
                ),
            )
        tensors = head
    files.write(f"{under}/{BEST_MODEL_FILE}", encode_tensors(tensors, about))


def _backbone_file(digest: str) -> str:
    return f"{CHECKPOINTS_FOLDER}/backbones/{digest}.safetensors"


def _read_model(files: Storage, name: str) -> SavedModel:
    shown = join_path(str(files), name)
    try:
        return decode_tensors(files.read(name))
    except FileNotFoundError:
        raise UserError(
            f"there is no {shown}. Weights are kept with --keep best (the default) or --keep all."
        ) from None
    except CorruptFileError as error:
        raise UserError(
            f"{shown} is damaged ({error}). Put a copy of it in its place, or run the experiment again into another folder."
        ) from error


def _read_state(files: Storage, under: str) -> dict[str, Any] | None:
    """What `save` wrote, or wrote before if that is damaged; None if there is nothing."""
    for name in (STATE_FILE, PREVIOUS_STATE_FILE):
        try:
            content = files.read(f"{under}/{name}")
        except FileNotFoundError:
            continue
        if (state := _decode_state(content)) is not None:
            return state
        log.warning(
            "%s/%s/%s is damaged: the trial resumes from the state before it.", files, under, name
        )
        files.delete(f"{under}/{name}")
    return None


def _flush_latest_state(files: Storage, under: str) -> list[str]:
    """Flush the latest state. Returns the one before, which isn't needed any more."""
    newest, before = state_files(under)
    if files.size(newest) is not None and _decode_state(content := files.read(newest)) is not None:
        files.write(newest, content)
        return [before]
    return []


def _encode_state(state: dict[str, Any]) -> memoryview:
    """A checksum, followed by the output of `torch.save`: a ZIP file, whose own, slower checksums don't cover its headers."""
    content = io.BytesIO()
    content.write(bytes(CHECKSUM_BYTES))
    set_crc32_options(False)
    torch.save(state, content)
    packed = content.getbuffer()
    packed[:CHECKSUM_BYTES] = xxhash.xxh3_128_digest(packed[CHECKSUM_BYTES:])
    return packed


def _decode_state(content: bytes) -> dict[str, Any] | None:
    """The inverse of `_packed`; None if these aren't bytes that it returned."""
    packed = memoryview(content)[CHECKSUM_BYTES:]
    if xxhash.xxh3_128_digest(packed) != content[:CHECKSUM_BYTES]:
        return None
    return torch.load(io.BytesIO(packed), map_location="cpu", weights_only=True)
