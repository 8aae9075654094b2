"""What these results allow to be claimed, in sentences: the headline of a report."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from bioimg.report.breakdown import configuration
from bioimg.results import statistics
from bioimg.results.configurations import configurations, varied
from bioimg.results.store import Results

NAMED = 3
"""How many configurations are named for each reason not to compare them."""


@dataclass(frozen=True)
class Claims:
    """headline: the best configuration, and how certain that is. holds: differences from it that hold. open: those that don't.

    refused: what isn't compared, and why.
    """

    headline: str
    holds: tuple[str, ...] = ()
    open: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()


def claims(results: Results) -> Claims:
    """Every completed configuration against the best one by validation."""
    key, ended = statistics.best(results), tuple(_ended(results.trials))
    if key is None:
        return Claims("No trial was completed: nothing can be compared.", refused=ended)
    pairs = statistics.paired(results, key)
    names = _names(results)
    lines = pd.Series(
        [f"{names[a]}: {claim}" for a, claim in zip(pairs["a"], pairs["claim"], strict=True)], index=pairs.index, dtype=object
    )
    parts = {word: tuple(lines[pairs["holds"].eq(word)]) for word in (True, False)}
    refused = tuple(_refused(pairs[pairs["holds"].isna()], names))
    return Claims(_headline(results, key, names[key], pairs), parts[True], parts[False], refused + ended)


def _refused(pairs: pd.DataFrame, names: Mapping[str, str]) -> Iterator[str]:
    """Each reason once, with the configurations it applies to."""
    for reason, rows in pairs.groupby("claim", sort=False):
        some, more = "; ".join(names[key] for key in rows["a"][:NAMED]), len(rows) - NAMED
        yield f"{some}{f'; and {more} more' if more > 0 else ''}: {reason}"


def _headline(results: Results, key: str, name: str, pairs: pd.DataFrame) -> str:
    trials = results.trials[configurations(results.trials).eq(key) & results.trials["status"].eq("completed")]
    share, n = accuracy(trials)
    ties, compared = int(pairs["holds"].eq(False).sum()), int(pairs["holds"].notna().sum())
    low, high = statistics.wilson(round(share * n), n)
    right = f"{100 * share:.1f} % [{100 * low:.1f}, {100 * high:.1f}] of {n} test images"
    runs = f" (mean of {len(trials)} runs)" if len(trials) > 1 else ""
    return f"Validation chose {name}: {right}{runs}; {_others(compared, ties, len(pairs))}."


def accuracy(runs: pd.DataFrame) -> tuple[float, int]:
    """The share of correct test images in all completed runs of one configuration, and the number of different test images:
    seeds share theirs, folds don't."""
    share = float(np.average(runs["test_accuracy"], weights=runs["test_images"]))
    return share, int(runs.drop_duplicates("fold")["test_images"].sum())


def _others(compared: int, ties: int, completed: int) -> str:
    if not compared:
        return "none of the others can be compared with it" if completed else "no other was completed"
    if compared == 1:
        return f"the only one compared with it {'is not distinguishable' if ties else 'differs'}"
    return f"not distinguishable from it: {ties} of {compared} others"


def _names(results: Results) -> dict[str, str]:
    fields = varied(results.trials)
    return {str(key): configuration(row, fields) for key, row in results.trials.set_index("key").iterrows()}


def _ended(trials: pd.DataFrame) -> Iterator[str]:
    every = f"{len(trials)} trial{'s' if len(trials) > 1 else ''}"
    for status, reason in (("stopped", "stopped early: no test accuracy"), ("failed", "failed")):
        count = int(trials["status"].eq(status).sum())
        if count:
            yield f"{count} of {every} {reason}; not ranked"
