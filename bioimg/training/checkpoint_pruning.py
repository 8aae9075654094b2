"""The limit on the disk space of a complete experiment: a model for each trial, and two states, as two lanes would have."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from bioimg.results.result_store import CHECKPOINTS_FOLDER, ResultStore
from bioimg.training import checkpoints
from bioimg.training.checkpoints import PREVIOUS_STATE_FILE, STATE_FILE

MAX_KEPT_STATES = 2
"""States that may stay, however many lanes there were: for a folder that several runs filled, that isn't known."""
UNFINISHED_STATUSES = ("stopped", "failed")
"""Trials that can be continued."""


def limit_checkpoint_size(store: ResultStore) -> int:
    """Delete states of stopped and failed trials until the limit is kept. Returns the number of trials that lost theirs.

    Failed trials lose theirs first, since they may fail again. Then trials stopped at the lowest rung, which have the fewest
    epochs to train again; within a rung those with the worst score, which are the least likely to be finished. Then `bytes` in
    the rows is updated. If this is interrupted, the next run does the rest.
    """
    rows, sizes = store.tables.all_rows("trials"), store.storage.sizes(CHECKPOINTS_FOLDER)
    unfinished = sorted(
        (row for row in rows if row["status"] in UNFINISHED_STATUSES), key=_progress_rank
    )
    states = {
        name: size
        for name, size in sizes.items()
        if name.endswith((STATE_FILE, PREVIOUS_STATE_FILE))
    }
    models = len(rows) * max(
        (size for name, size in sizes.items() if name.endswith(".safetensors")), default=0
    )
    dropped = 0
    for row in unfinished:
        under = store.checkpoint_folder(row["key"])
        own = [name for name in checkpoints.state_files(under) if name in states]
        if own and sum(sizes.values()) > models + MAX_KEPT_STATES * max(states.values()):
            checkpoints.delete_states(store.storage, under)
            dropped += 1
            for name in own:
                del sizes[name], states[name]
    _update_sizes(store, unfinished, sizes)
    return dropped


def _update_sizes(store: ResultStore, rows: list[dict[str, Any]], sizes: Mapping[str, int]) -> None:
    """Update `bytes` in the rows to the files that their trials have."""
    taken = Counter[str]()
    for name, size in sizes.items():
        taken[name.rpartition("/")[0]] += size
    for row in rows:
        if row["bytes"] != (now := taken[store.checkpoint_folder(row["key"])]):
            store.tables.write("trials", row["key"], [{**row, "bytes": now}])


def _progress_rank(row: Mapping[str, Any]) -> tuple[int, float, str]:
    """How far a trial came: more is better. A score above its threshold is a loss, where less is better."""
    if row["status"] == "failed":
        return 0, 0.0, row["key"]
    better = 1 if row["rung_score"] < row["rung_threshold"] else -1
    return row["stopped_at_rung"], better * row["rung_score"], row["key"]
