"""Describe the intervals and tests."""

from collections.abc import Iterator

import pandas as pd

from bioimg.report.formatting import (
    format_fixed,
    format_number,
    format_percent,
)
from bioimg.report.methods.paragraph import Paragraph, Sentence
from bioimg.report.translation import translate
from bioimg.results.statistics import comparison_tests, standard_error
from bioimg.results.statistics.metrics import CALIBRATION_BINS


class StatisticsParagraph(Paragraph):
    """How recipes were compared."""

    def sentences(self) -> Iterator[Sentence]:
        if self._best_score is None:
            return
        yield from self._describe_interval(self._best_score)
        tested = self.analysis.best_pairs[self.analysis.best_pairs["p"].notna()]
        if len(tested):
            yield from self._describe_tests(tested)
        if self.analysis.tested_keys:
            others = {"accuracy": "balanced_accuracy", "balanced_accuracy": "accuracy"}
            other = translate(f"methods.name_{others[self._score]}", self.lang)
            yield self._say("measures", other=other, bins=CALIBRATION_BINS)
            yield self._say("failures")
        if self.analysis.effects["effect"].notna().any():
            yield self._say("effects")

    def _describe_interval(self, score: pd.Series) -> Iterator[Sentence]:
        if pd.isna(score["low"]):
            yield self._say("interval_none")
            return
        level = format_percent(standard_error.CONFIDENCE_LEVEL, 0)
        sampled = "groups" if pd.notna(score["groups"]) else "images"
        yield self._say(f"interval_{sampled}_{self._score}", level=level)
        if self._has_folds:
            yield self._say("interval_folds")
        elif score["scope"] == "recipes":
            yield self._say("interval_runs")

    def _describe_tests(self, tested: pd.DataFrame) -> Iterator[Sentence]:
        yield self._say("compared", n=len(tested))
        codes = tested["test"].unique()
        names = [translate(f"methods.test_{code}", self.lang) for code in codes]
        yield self._say("tests", tests=self._either(names))
        yield self._say(
            "holm" if len(tested) > 1 else "holm_one",
            n=len(tested),
            level=format_number(comparison_tests.SIGNIFICANCE_LEVEL),
        )
        level = format_percent(standard_error.CONFIDENCE_LEVEL, 0)
        yield self._say("difference_interval", level=level)
        scopes = list(tested["scope"].unique())
        if scopes == ["recipes"]:
            yield self._say("scope_recipes")
        elif scopes == ["models"]:
            yield self._say("scope_models")
        else:
            yield self._say("scope_mixed")
        detectable = tested["detectable"].min()
        if detectable < 1:
            yield self._say(
                "detectable",
                power=format_percent(standard_error.POWER, 0),
                points=format_fixed(100 * detectable, 1),
            )
