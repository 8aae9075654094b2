"""The files of a trial's checkpoint: their names, whether they exist, and which to delete.

Programs that only start trials use this module, so it imports no torch. `checkpoints` reads and
writes the files.

resume.pt            everything needed to resume after an epoch
resume.alternate.pt  the same, after another epoch: the two are written in turn
best.safetensors     the model at its best epoch; if its backbone was frozen, only the head, which
                     names the backbone
backbones/           these frozen backbones, next to the folders of the trials, each stored once
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from bioimg.config import TrialConfig
from bioimg.results.result_store import CHECKPOINTS_FOLDER, ResultStore
from bioimg.storage.filesystem import Storage

STATE_FILES = ("resume.pt", "resume.alternate.pt")
BEST_MODEL_FILE = "best.safetensors"


def state_files(trial_folder: str) -> list[str]:
    """List the two files that hold the states of a trial in turn."""
    return [f"{trial_folder}/{name}" for name in STATE_FILES]


def next_state_file(trial_folder: str, latest: str | None) -> str:
    """Return the name of the file to save a state in, given the one with the latest state."""
    first, second = state_files(trial_folder)
    return second if latest == first else first


def has_state(store: ResultStore, key: str) -> bool:
    """Return True if an earlier session left the state of a trial."""
    names = state_files(store.checkpoint_folder(key))
    return not store.earlier_checkpoints.isdisjoint(names)


def shorter_trial_keys(trial: TrialConfig) -> Iterator[str]:
    """Yield the keys of trials that differ in having fewer epochs, the longest first.

    While the learning rate is constant after its warm-up, their epochs are the first ones of this
    trial to the last bit. Otherwise there are none. A head that is trained first must have been
    trained as long.
    """
    if trial.schedule != "constant":
        return
    for epochs in range(trial.epochs - 1, trial.head_epochs + trial.warmup, -1):
        shorter = replace(trial, epochs=epochs)
        if shorter.head_epochs == trial.head_epochs:
            yield shorter.key


def has_best_model(store: ResultStore, key: str) -> bool:
    """Return True if the weights of a trial's best epoch were kept."""
    return store.storage.size(f"{store.checkpoint_folder(key)}/{BEST_MODEL_FILE}") is not None


def delete_states(storage: Storage, trial_folder: str) -> None:
    """Delete the states of a trial."""
    for name in state_files(trial_folder):
        storage.delete(name)


def delete_leftover_states(store: ResultStore, trials: Iterable[TrialConfig]) -> None:
    """Delete states of trials that were killed between writing their row and deleting them.

    Such states aren't included in the row's `bytes`.
    """
    sizes = store.storage.sizes(CHECKPOINTS_FOLDER)
    keys = {trial.key for trial in trials}
    for row in store.tables.all_rows("trials"):
        if row["key"] in keys and row["status"] != "failed" and row["bytes"] is not None:
            trial_folder = store.checkpoint_folder(row["key"])
            _delete_states_beyond(row["bytes"], trial_folder, sizes, store.storage)


def _delete_states_beyond(
    limit: int, trial_folder: str, sizes: Mapping[str, int], storage: Storage
) -> None:
    """Delete states, the earlier one first, until the trial's files take at most `limit` bytes."""
    used = sum(size for name, size in sizes.items() if name.startswith(f"{trial_folder}/"))
    if used <= limit:
        return

    from bioimg.training.checkpoints import read_states

    for name, _ in reversed(read_states(storage, trial_folder)):
        if used > limit:
            storage.delete(name)
            used -= sizes[name]
