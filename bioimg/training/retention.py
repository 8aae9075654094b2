"""The limit on the disk space of a complete experiment: a model for each trial, and two states, as two lanes would have."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from bioimg.results.store import CHECKPOINTS, Store
from bioimg.training import checkpoint
from bioimg.training.checkpoint import PREVIOUS, RESUME

LANES = 2
"""States that may stay, however many lanes there were: for a folder that several runs filled, that isn't known."""
UNFINISHED = ("stopped", "failed")
"""Trials that can be continued."""


def make_room(store: Store) -> int:
    """Delete states of stopped and failed trials until the limit is kept. Returns the number of trials that lost theirs.

    Failed trials lose theirs first, since they may fail again. Then trials stopped at the lowest rung, which have the fewest
    epochs to train again; within a rung those with the worst score, which are the least likely to be finished. Then `bytes` in
    the rows is updated. If this is interrupted, the next run does the rest.
    """
    rows, sizes = store.tables.every("trials"), store.files.sizes(CHECKPOINTS)
    unfinished = sorted((row for row in rows if row["status"] in UNFINISHED), key=_came)
    states = {name: size for name, size in sizes.items() if name.endswith((RESUME, PREVIOUS))}
    models = len(rows) * max((size for name, size in sizes.items() if name.endswith(".safetensors")), default=0)
    dropped = 0
    for row in unfinished:
        under = store.checkpoint(row["key"])
        own = [name for name in checkpoint.states(under) if name in states]
        if own and sum(sizes.values()) > models + LANES * max(states.values()):
            checkpoint.drop(store.files, under)
            dropped += 1
            for name in own:
                del sizes[name], states[name]
    _weigh(store, unfinished, sizes)
    return dropped


def _weigh(store: Store, rows: list[dict[str, Any]], sizes: Mapping[str, int]) -> None:
    """Update `bytes` in the rows to the files that their trials have."""
    taken = Counter[str]()
    for name, size in sizes.items():
        taken[name.rpartition("/")[0]] += size
    for row in rows:
        if row["bytes"] != (now := taken[store.checkpoint(row["key"])]):
            store.tables.write("trials", row["key"], [{**row, "bytes": now}])


def _came(row: Mapping[str, Any]) -> tuple[int, float, str]:
    """How far a trial came: more is better. A score above its threshold is a loss, where less is better."""
    if row["status"] == "failed":
        return 0, 0.0, row["key"]
    better = 1 if row["rung_score"] < row["rung_threshold"] else -1
    return row["stopped_at_rung"], better * row["rung_score"], row["key"]
