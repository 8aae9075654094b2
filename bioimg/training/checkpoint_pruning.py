"""Limit the disk space of a complete experiment.

The limit is that of a model for each trial, and of two states, as an experiment on two lanes would
leave them.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from bioimg.experiment import metric_sign
from bioimg.results.result_store import CHECKPOINTS_FOLDER, ResultStore
from bioimg.training import checkpoint_files
from bioimg.training.checkpoint_files import STATE_FILES

MAX_KEPT_STATES = 2
"""States that may stay, for any number of lanes.

In a folder that several sessions filled, the number of lanes isn't known.
"""
UNFINISHED_STATUSES = ("stopped", "failed")
"""Trials that can be continued."""


def limit_checkpoint_size(store: ResultStore) -> int:
    """Delete states of stopped and failed trials until the limit is kept.

    Failed trials lose theirs first, since they may fail again. Then trials stopped at the lowest
    rung, which have the fewest epochs to train again. Within a rung, trials with the worst score
    come first, since they are the least likely to be finished.

    At the end `bytes` in the rows is updated. If this is interrupted, the next session continues.

    Returns:
        The number of trials that lost their states.
    """
    rows = store.tables.all_rows("trials")
    sizes = store.storage.sizes(CHECKPOINTS_FOLDER)
    unfinished = [row for row in rows if row["status"] in UNFINISHED_STATUSES]
    unfinished.sort(key=_progress_rank)

    model_sizes = [size for name, size in sizes.items() if name.endswith(".safetensors")]
    model_bytes = len(rows) * max(model_sizes, default=0)
    dropped = 0
    for row in unfinished:
        trial_folder = store.checkpoint_folder(row["key"])
        own_states = [name for name in checkpoint_files.state_files(trial_folder) if name in sizes]
        if not own_states:
            continue
        limit = model_bytes + MAX_KEPT_STATES * _largest_state(sizes)
        if sum(sizes.values()) > limit:
            checkpoint_files.delete_states(store.storage, trial_folder)
            dropped += 1
            for name in own_states:
                del sizes[name]
    _update_sizes(store, unfinished, sizes)
    return dropped


def _largest_state(sizes: Mapping[str, int]) -> int:
    return max((size for name, size in sizes.items() if name.endswith(STATE_FILES)), default=0)


def _update_sizes(store: ResultStore, rows: list[dict[str, Any]], sizes: Mapping[str, int]) -> None:
    """Update `bytes` in the rows to the sizes of the files that their trials have."""
    folder_bytes = Counter[str]()
    for name, size in sizes.items():
        trial_folder, _, _ = name.rpartition("/")
        folder_bytes[trial_folder] += size
    for row in rows:
        used = folder_bytes[store.checkpoint_folder(row["key"])]
        if row["bytes"] != used:
            store.tables.write("trials", row["key"], [{**row, "bytes": used}])


def _progress_rank(row: Mapping[str, Any]) -> tuple[int, float, str]:
    """Return how far a trial came: a higher rank is kept longer."""
    if row["status"] == "failed":
        return 0, 0.0, row["key"]
    signed_score = metric_sign(row["rung_metric"]) * row["rung_score"]
    return row["stopped_at_rung"], signed_score, row["key"]
