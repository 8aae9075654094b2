"""Describe what came out for the recipe that validation chose."""

from collections.abc import Iterator

import pandas as pd

from bioimg.report.formatting import format_count, format_percent
from bioimg.report.methods.paragraph import Paragraph, Sentence
from bioimg.results.statistics import standard_error


class ResultParagraph(Paragraph):
    """What the chosen recipe reached."""

    def sentences(self) -> Iterator[Sentence]:
        score = self._best_score
        if score is None:
            yield self._say("result_none")
            return
        best = self.analysis.best
        assert best is not None
        yield self._say("result_recipe", recipe=self._recipe(best.key))
        yield self._say(
            "result",
            score=self._score_name,
            value=format_percent(score["score"]),
            n=format_count(score["images"]),
        )
        if pd.notna(score["low"]):
            yield self._say(
                "result_interval",
                level=format_percent(standard_error.CONFIDENCE_LEVEL, 0),
                low=format_percent(score["low"]),
                high=format_percent(score["high"]),
            )
        if score["runs"] > 1:
            yield self._say("result_runs", runs=score["runs"])
        baseline = self.analysis.baseline_score
        if baseline is not None:
            yield self._say("result_baseline", value=format_percent(baseline))
        yield from self._describe_outcome()

    def _describe_outcome(self) -> Iterator[Sentence]:
        counts = self.analysis.verdict_counts
        compared = counts["better"] + counts["worse"] + counts["tie"]
        if compared:
            yield self._say(
                "outcome",
                n=compared,
                better=counts["better"],
                worse=counts["worse"],
                tie=counts["tie"],
            )
        if counts["unknown"]:
            yield self._say("outcome_unknown", n=counts["unknown"])
