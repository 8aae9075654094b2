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

from bioimg.config import TrialConfig, UserError
from bioimg.model.extract import digest
from bioimg.model.saved import Damaged, Saved, decode, encode
from bioimg.results.folder import Folder, beside
from bioimg.results.store import CHECKPOINTS, Store
from bioimg.training import precision
from bioimg.training.run import Run

RESUME, PREVIOUS, BEST = "resume.pt", "resume.previous.pt", "best.safetensors"
CHECKSUM = xxhash.xxh3_128().digest_size

log = logging.getLogger("bioimg")


def save(run: Run, files: Folder, under: str) -> None:
    """Write everything needed to resume, and keep the state before as the previous one.

    This doesn't wait for the disk: a state damaged by a power failure is found by its checksum, and the previous one is used.
    """
    state = run.state_dict()
    if run.best_epoch == len(run.history):
        state["best"] = state["learner"]  # the same tensors, written only once
    content = _packed(state)
    if files.size(f"{under}/{RESUME}") is not None:
        files.move(f"{under}/{RESUME}", f"{under}/{PREVIOUS}")
    files.write(f"{under}/{RESUME}", content, flush=False)


def load(run: Run, files: Folder, under: str) -> None:
    """Resume from what `save` wrote: the previous state if the latest is damaged; from the start if there is none."""
    if state := _state(files, under):
        run.load_state_dict(state)


def past(files: Folder, under: str) -> tuple[list[dict[str, Any]], str | None]:
    """The epochs that `load` would find, and the key of the shorter trial that trained the first of them."""
    state = _state(files, under) or {}
    return state.get("history", []), state.get("continued_from")


def prepare(trial: TrialConfig, store: Store) -> bool:
    """Whether `load` will find a state. A trial without one gets that of the longest shorter trial that has one."""
    files, under = store.files, store.checkpoint(trial.key)
    if any(files.size(f"{under}/{name}") is not None for name in (RESUME, PREVIOUS)):
        return True
    for key in shorter(trial):
        if has_state(store, key) and (state := _state(files, store.checkpoint(key))):
            files.write(f"{under}/{RESUME}", _packed({**state, "continued_from": key}), flush=False)
            return True
    return False


def has_state(store: Store, key: str) -> bool:
    """Whether an earlier run left the state of a trial."""
    return f"{store.checkpoint(key)}/{RESUME}" in store.earlier_checkpoints


def shorter(trial: TrialConfig) -> Iterator[str]:
    """Keys of trials that differ in having fewer epochs, the longest first.

    While the learning rate is constant, their epochs are the first ones of this trial to the last bit.
    """
    if trial.schedule == "constant":
        yield from (replace(trial, epochs=epochs).key for epochs in range(trial.epochs - 1, 0, -1))


def finish(run: Run, files: Folder, under: str, keep: str) -> list[str]:
    """Write the model with the metadata that predicting needs, unless `keep` is none. Returns the states that aren't kept.

    The caller deletes them after writing the row: a trial that is killed with neither would be trained again.
    The state of a head on a frozen backbone is small. It stays, since a longer trial can continue from it.
    """
    if keep != "none":
        _export(run, files, under)
    if keep == "best" and run.trial.freeze == "features" and run.trial.schedule == "constant":
        return _settle(files, under)
    return [] if keep == "all" else states(under)


def stop(run: Run, files: Folder, under: str, keep: str) -> list[str]:
    """Keep the state that a stopped trial can be finished from; with `all` its best epoch too. Returns those not kept."""
    if keep == "none":
        return states(under)
    if keep == "all":
        run.restore_best()
        _export(run, files, under)
        return []
    return _settle(files, under)


def states(under: str) -> list[str]:
    """The files with the states of a trial."""
    return [f"{under}/{RESUME}", f"{under}/{PREVIOUS}"]


def drop(files: Folder, under: str) -> None:
    """Delete the states of a trial."""
    for name in states(under):
        files.delete(name)


def tidy(store: Store, trials: Iterable[TrialConfig]) -> None:
    """Delete states of trials that were killed after writing their row and before deleting them: its `bytes` omits these."""
    sizes, keys = store.files.sizes(CHECKPOINTS), {trial.key for trial in trials}
    for row in store.tables.every("trials"):
        if row["key"] in keys and row["status"] != "failed" and row["bytes"] is not None:
            _drop_beyond(row["bytes"], store.checkpoint(row["key"]), sizes, store.files)


def _drop_beyond(most: int, under: str, sizes: Mapping[str, int], files: Folder) -> None:
    taken = sum(size for name, size in sizes.items() if name.startswith(f"{under}/"))
    for name in reversed(states(under)):
        if name in sizes and taken > most:
            files.delete(name)
            taken -= sizes[name]


def best(files: Folder, under: str) -> Saved:
    """The complete model of a trial's best epoch, also if the trial has stored only its head.

    Raises:
        UserError: it wasn't kept, or a file is damaged.
    """
    own = _read(files, f"{under}/{BEST}")
    if "backbone" not in own.about:
        return own
    return Saved({**_read(files, _backbone(own.about["backbone"])).tensors, **own.tensors}, own.about)


def _export(run: Run, files: Folder, under: str) -> None:
    about: dict[str, Any] = {
        "model": run.trial.model,
        "image_size": run.trial.image_size,
        "resize": run.trial.resize,
        "channels": run.trial.channels,
        "scaling": run.images.scaling,
        "classes": list(run.images.classes),
        "normalisation": run.normalisation,
        "precision": precision.name(run.dtype),
    }
    tensors = run.classifier.model.state_dict()
    if run.trial.freeze == "features":
        about["backbone"] = digest(run.classifier)
        head = {name: tensor for name, tensor in tensors.items() if name.startswith(f"{run.classifier.head_name}.")}
        if files.size(name := _backbone(about["backbone"])) is None:  # if several lanes see this, all write the same
            rest = {name: tensor for name, tensor in tensors.items() if name not in head}
            files.write(name, encode(rest, {"model": run.trial.model, "normalisation": run.normalisation}))
        tensors = head
    files.write(f"{under}/{BEST}", encode(tensors, about))


def _backbone(digest: str) -> str:
    return f"{CHECKPOINTS}/backbones/{digest}.safetensors"


def _read(files: Folder, name: str) -> Saved:
    shown = beside(str(files), name)
    try:
        return decode(files.read(name))
    except FileNotFoundError:
        raise UserError(f"there is no {shown}. Weights are kept with --keep best (the default) or --keep all.") from None
    except Damaged as error:
        raise UserError(
            f"{shown} is damaged ({error}). Put a copy of it in its place, or run the experiment again into another folder."
        ) from error


def _state(files: Folder, under: str) -> dict[str, Any] | None:
    """What `save` wrote, or wrote before if that is damaged; None if there is nothing."""
    for name in (RESUME, PREVIOUS):
        try:
            content = files.read(f"{under}/{name}")
        except FileNotFoundError:
            continue
        if (state := _unpacked(content)) is not None:
            return state
        log.warning("%s/%s/%s is damaged: the trial resumes from the state before it.", files, under, name)
        files.delete(f"{under}/{name}")
    return None


def _settle(files: Folder, under: str) -> list[str]:
    """Flush the latest state. Returns the one before, which isn't needed any more."""
    newest, before = states(under)
    if files.size(newest) is not None and _unpacked(content := files.read(newest)) is not None:
        files.write(newest, content)
        return [before]
    return []


def _packed(state: dict[str, Any]) -> memoryview:
    """A checksum, followed by the output of `torch.save`: a ZIP file, whose own, slower checksums don't cover its headers."""
    content = io.BytesIO()
    content.write(bytes(CHECKSUM))
    set_crc32_options(False)
    torch.save(state, content)
    packed = content.getbuffer()
    packed[:CHECKSUM] = xxhash.xxh3_128_digest(packed[CHECKSUM:])
    return packed


def _unpacked(content: bytes) -> dict[str, Any] | None:
    """The inverse of `_packed`; None if these aren't bytes that it returned."""
    packed = memoryview(content)[CHECKSUM:]
    if xxhash.xxh3_128_digest(packed) != content[:CHECKSUM]:
        return None
    return torch.load(io.BytesIO(packed), map_location="cpu", weights_only=True)
