"""The bound on what a complete experiment takes on disk: a model for each trial and, as two lanes would have, two states."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from bioimg.results.store import CHECKPOINTS, Store
from bioimg.training import checkpoint
from bioimg.training.checkpoint import PREVIOUS, RESUME

LANES = 2
"""States that there is room for, however many lanes there were: of a folder that several runs filled, nobody knows."""
UNFINISHED = ("stopped", "failed")
"""Trials that can go on."""


def make_room(store: Store) -> int:
    """Drop states that stopped or failed trials could go on from until the bound holds. Returns how many trials lost theirs.

    Failed trials lose theirs first, since they may fail again, then those that were stopped at the lowest rung, since they have
    the fewest epochs to train again, and of one rung those with the worst score, which are the least likely to be finished.
    Rows then say what their trials take now. Whenever this is cut off, the next run does the rest.
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
    """Bring rows up to date with the files that their trials have."""
    taken = Counter[str]()
    for name, size in sizes.items():
        taken[name.rpartition("/")[0]] += size
    for row in rows:
        if row["bytes"] != (now := taken[store.checkpoint(row["key"])]):
            store.tables.write("trials", row["key"], [{**row, "bytes": now}])


def _came(row: Mapping[str, Any]) -> tuple[int, float, str]:
    """How far a trial came, the more the better. A score above its threshold is a loss: the less the better."""
    if row["status"] == "failed":
        return 0, 0.0, row["key"]
    better = 1 if row["rung_score"] < row["rung_threshold"] else -1
    return row["stopped_at_rung"], better * row["rung_score"], row["key"]
