"""What these results allow to be claimed, in sentences: the headline of a report."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from bioimg.report.detail_tables import configuration_label
from bioimg.results import statistics
from bioimg.results.configurations import configuration_keys, varying_fields
from bioimg.results.result_store import Results

MAX_NAMED_CONFIGURATIONS = 3
"""How many configurations are named for each reason not to compare them."""


@dataclass(frozen=True)
class Conclusions:
    """headline: the best configuration, and how certain that is. holds: differences from it that hold. open: those that don't.

    refused: what isn't compared, and why.
    """

    headline: str
    distinguishable: tuple[str, ...] = ()
    not_distinguishable: tuple[str, ...] = ()
    not_compared: tuple[str, ...] = ()


def draw_conclusions(results: Results) -> Conclusions:
    """Every completed configuration against the best one by validation."""
    key, ended = statistics.best_configuration(results), tuple(_unfinished_lines(results.trials))
    if key is None:
        return Conclusions("No trial was completed: nothing can be compared.", not_compared=ended)
    pairs = statistics.compare_pairs(results, key)
    names = _configuration_labels(results)
    lines = pd.Series(
        [f"{names[a]}: {claim}" for a, claim in zip(pairs["a"], pairs["claim"], strict=True)],
        index=pairs.index,
        dtype=object,
    )
    parts = {word: tuple(lines[pairs["holds"].eq(word)]) for word in (True, False)}
    refused = tuple(_not_comparable_lines(pairs[pairs["holds"].isna()], names))
    return Conclusions(
        _headline_text(results, key, names[key], pairs), parts[True], parts[False], refused + ended
    )


def _not_comparable_lines(pairs: pd.DataFrame, names: Mapping[str, str]) -> Iterator[str]:
    """Each reason once, with the configurations it applies to."""
    for reason, rows in pairs.groupby("claim", sort=False):
        some, more = (
            "; ".join(names[key] for key in rows["a"][:MAX_NAMED_CONFIGURATIONS]),
            len(rows) - MAX_NAMED_CONFIGURATIONS,
        )
        yield f"{some}{f'; and {more} more' if more > 0 else ''}: {reason}"


def _headline_text(results: Results, key: str, name: str, pairs: pd.DataFrame) -> str:
    trials = results.trials[
        configuration_keys(results.trials).eq(key) & results.trials["status"].eq("completed")
    ]
    share, n = pooled_test_accuracy(trials)
    ties, compared = int(pairs["holds"].eq(False).sum()), int(pairs["holds"].notna().sum())
    low, high = statistics.wilson_interval(round(share * n), n)
    right = f"{100 * share:.1f} % [{100 * low:.1f}, {100 * high:.1f}] of {n} test images"
    runs = f" (mean of {len(trials)} runs)" if len(trials) > 1 else ""
    return f"Validation chose {name}: {right}{runs}; {_comparison_summary(compared, ties, len(pairs))}."


def pooled_test_accuracy(runs: pd.DataFrame) -> tuple[float, int]:
    """The share of correct test images in all completed runs of one configuration, and the number of different test images:
    seeds share theirs, folds don't."""
    share = float(np.average(runs["test_accuracy"], weights=runs["test_images"]))
    return share, int(runs.drop_duplicates("fold")["test_images"].sum())


def _comparison_summary(compared: int, ties: int, completed: int) -> str:
    if not compared:
        return (
            "none of the others can be compared with it" if completed else "no other was completed"
        )
    if compared == 1:
        return f"the only one compared with it {'is not distinguishable' if ties else 'differs'}"
    return f"not distinguishable from it: {ties} of {compared} others"


def _configuration_labels(results: Results) -> dict[str, str]:
    fields = varying_fields(results.trials)
    return {
        str(key): configuration_label(row, fields)
        for key, row in results.trials.set_index("key").iterrows()
    }


def _unfinished_lines(trials: pd.DataFrame) -> Iterator[str]:
    every = f"{len(trials)} trial{'s' if len(trials) > 1 else ''}"
    for status, reason in (("stopped", "stopped early: no test accuracy"), ("failed", "failed")):
        count = int(trials["status"].eq(status).sum())
        if count:
            yield f"{count} of {every} {reason}; not ranked"
