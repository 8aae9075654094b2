"""The words of `compare_pairs`, in English. They move to the report."""

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from bioimg.results.statistics.configuration_outcomes import ConfigurationOutcome

SIGNIFICANCE_LEVEL = 0.05
REASONS = {
    "data": "they differ in data",
    "split": "they differ in split",
    "group_pattern": "they differ in group pattern",
    "score": "they are measured by different scores",
    "test_images": "they differ in test images",
    "uneven_stopping": "early stopping ended different shares of their runs, and the runs that it "
    "doesn't end are better than average (see --finish)",
    "one_group": "all test images are of one group, so nothing can be said about other groups",
    "one_image": "there is only one test image",
    "one_run": "one of them has one run only, so how much its runs differ is unknown (see --seed)",
}


def claim_texts(table: pd.DataFrame, outcomes: Mapping[str, ConfigurationOutcome]) -> Iterator[str]:
    """Yield what can be said about each pair."""
    for row in table.to_dict("records"):
        if row["reason"]:
            yield f"not compared: {REASONS[row['reason']]}"
            continue
        epochs_a = outcomes[row["a"]].first_row["epochs"]
        epochs_b = outcomes[row["b"]].first_row["epochs"]
        yield _verdict_text(row, _epochs_note(epochs_a, epochs_b))


def _verdict_text(row: dict, epochs_note: str) -> str:
    percent_a = 100 * row["score_a"]
    percent_b = 100 * row["score_b"]
    shares = f"{percent_a:.1f} % and {percent_b:.1f} % of {row['n']} images{epochs_note}"
    p = _format_p("p", row["p"])
    p_holm = _format_p("Holm", row["p_holm"])
    if not row["holds"]:
        cause = ""
        if row["p_mcnemar"] < SIGNIFICANCE_LEVEL <= row["p"]:
            cause = " (a difference over single images, but not over groups)"
        return f"{shares}: not distinguishable, {p} ({p_holm}){cause}"

    points = 100 * row["difference"]
    low = 100 * row["low"]
    high = 100 * row["high"]
    verdict = "better"
    if points < 0:
        # "worse by" states how much lower a is, as a positive number
        points, low, high = -points, -high, -low
        verdict = "worse"
    interval = "" if np.isnan(low) else f" [{low:.1f}, {high:.1f}]"
    return f"{shares}: {verdict} by {points:.1f} points{interval}, {p} ({p_holm})"


def _format_p(name: str, p: float) -> str:
    if p < 0.001:
        return f"{name} < 0.001"
    return f"{name} = {p:.2g}"


def _epochs_note(epochs_a: int, epochs_b: int) -> str:
    if epochs_a == epochs_b:
        return ""
    return f" (after {epochs_a} and {epochs_b} epochs)"
