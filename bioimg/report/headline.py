"""State in sentences what these results allow to be claimed: the headline of a report."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pandas as pd

from bioimg.report.analysis import Analysis
from bioimg.report.labels import configuration_labels
from bioimg.report.translation import translate

MAX_NAMED_CONFIGURATIONS = 3
"""How many configurations are named for each reason not to compare them."""


@dataclass(frozen=True)
class Conclusions:
    """What can be claimed, one sentence per configuration.

    headline:            the best configuration, and how certain its lead is.
    distinguishable:     configurations that differ from it.
    not_distinguishable: configurations for which no difference can be claimed.
    not_compared:        what isn't compared, and why.
    """

    headline: str
    distinguishable: tuple[str, ...] = ()
    not_distinguishable: tuple[str, ...] = ()
    not_compared: tuple[str, ...] = ()


def draw_conclusions(analysis: Analysis) -> Conclusions:
    """Compare every completed configuration with the best one by validation."""
    best = analysis.best
    unfinished = list(_unfinished_lines(analysis.trials))
    if best is None:
        headline = "No trial was completed: nothing can be compared."
        return Conclusions(headline, not_compared=tuple(unfinished))
    labels = configuration_labels(analysis)
    # null where the two can't be compared
    pairs = analysis.best_pairs
    holds = pairs["holds"]
    distinguishable = pairs[holds.eq(True)]
    not_distinguishable = pairs[holds.eq(False)]
    not_comparable = pairs[holds.isna()]
    return Conclusions(
        headline=_headline_text(analysis, labels[best.key]),
        distinguishable=_claim_lines(distinguishable, labels),
        not_distinguishable=_claim_lines(not_distinguishable, labels),
        not_compared=(*_not_comparable_lines(not_comparable, labels), *unfinished),
    )


def _claim_lines(pairs: pd.DataFrame, labels: Mapping[str, str]) -> tuple[str, ...]:
    rows = zip(pairs["a"], pairs["claim"], strict=True)
    return tuple(f"{labels[key]}: {claim}" for key, claim in rows)


def _not_comparable_lines(pairs: pd.DataFrame, labels: Mapping[str, str]) -> Iterator[str]:
    """Yield each reason once, with the configurations it applies to."""
    for reason, rows in pairs.groupby("claim", sort=False):
        named = rows["a"].head(MAX_NAMED_CONFIGURATIONS)
        parts = [labels[key] for key in named]
        unnamed_count = len(rows) - len(named)
        if unnamed_count > 0:
            parts.append(f"and {unnamed_count} more")
        names = "; ".join(parts)
        yield f"{names}: {reason}"


def _headline_text(analysis: Analysis, label: str) -> str:
    best = analysis.best
    assert best is not None
    interval = f"[{100 * best.low:.1f}, {100 * best.high:.1f}]"
    accuracy = f"{100 * best.accuracy:.1f} % {interval} of {best.images} test images"
    if len(best.runs) > 1:
        accuracy += f" (mean of {len(best.runs)} runs)"
    sentences = [f"Validation chose {label}: {accuracy}; {_comparison_summary(analysis)}."]
    stopping = stopping_sentence(analysis, "en")
    if stopping:
        sentences.append(stopping)
    return " ".join(sentences)


def stopping_sentence(analysis: Analysis, lang: str) -> str | None:
    """Say how many recipes were stopped early, which may be better; None if none was."""
    stopped = analysis.trials[analysis.trials["status"].eq("stopped")]
    if stopped.empty:
        return None
    recipes = analysis.trials["key"].map(analysis.configuration_by_trial)
    count = recipes[stopped.index].nunique()
    lengths = stopped["epochs_run"].dropna().astype(int)
    fewest, most = lengths.min(), lengths.max()
    epochs = f"{fewest}" if fewest == most else f"{fewest}–{most}"
    code = "page.stopped_one" if count == 1 else "page.stopped_some"
    return translate(code, lang, stopped=count, recipes=recipes.nunique(), epochs=epochs)


def _comparison_summary(analysis: Analysis) -> str:
    if analysis.best_pairs.empty:
        return "no other was completed"
    counts = analysis.verdict_counts
    compared = counts["tie"] + counts["better"] + counts["worse"]
    if not compared:
        return "none of the others can be compared with it"
    if compared == 1:
        outcome = "is not distinguishable" if counts["tie"] else "differs"
        return f"the only one compared with it {outcome}"
    return f"not distinguishable from it: {counts['tie']} of {compared} others"


def _unfinished_lines(trials: pd.DataFrame) -> Iterator[str]:
    """Yield how many trials were stopped, and how many failed."""
    noun = "trials" if len(trials) > 1 else "trial"
    reasons = {"stopped": "stopped early: no test accuracy", "failed": "failed"}
    for status, reason in reasons.items():
        count = int(trials["status"].eq(status).sum())
        if count:
            yield f"{count} of {len(trials)} {noun} {reason}; not ranked"
