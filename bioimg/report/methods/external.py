"""Describe how recipes were evaluated on external sets, and what came out."""

from collections.abc import Iterator
from typing import Any

import pandas as pd

from bioimg.report.formatting import format_count, format_percent, format_points
from bioimg.report.methods.paragraph import Paragraph, Sentence
from bioimg.report.tested_set import TestedSet
from bioimg.results.statistics import standard_error


class ExternalParagraph(Paragraph):
    """Images from elsewhere, on which nothing was trained or chosen."""

    def sentences(self) -> Iterator[Sentence]:
        for tested in self.analysis.external_sets:
            yield from self._describe_images(tested)
            yield from self._describe_looks(tested)
            if tested.has_best:
                yield from self._describe_result(tested)

    def _describe_images(self, tested: TestedSet) -> Iterator[Sentence]:
        record = tested.record
        yield self._say(
            "external",
            set=tested.name,
            n=format_count(record.images),
            fingerprint=record.fingerprint,
            recipes=len(tested.scores),
        )
        if record.groups is not None:
            yield self._say("external_groups", groups=format_count(record.groups))
        if record.copies_left_out:
            yield self._say("external_copies", n=record.copies_left_out)
        if record.missing_classes:
            yield self._say("external_missing", classes=self._all_of(record.missing_classes))

    def _describe_looks(self, tested: TestedSet) -> Iterator[Sentence]:
        looks = tested.record.looks
        yield self._say(
            "external_looks" if len(looks) > 1 else "external_look",
            n=len(looks),
            date=looks[0].time[:10],
            later=looks[-1].completed - looks[0].completed,
        )

    def _describe_result(self, tested: TestedSet) -> Iterator[Sentence]:
        best: Any = tested.scores.loc[tested.best_key]
        yield self._say(
            "external_result",
            score=self._score_name,
            value=format_percent(best["score_away"]),
            change=format_points(best["change"]),
        )
        if pd.notna(best["score_away_low"]):
            yield self._say(
                "external_interval",
                level=format_percent(standard_error.CONFIDENCE_LEVEL, 0),
                low=format_percent(best["score_away_low"]),
                high=format_percent(best["score_away_high"]),
            )
        verdicts = tested.best_pairs["verdict"].value_counts()
        counts = {name: int(verdicts.get(name, 0)) for name in ("better", "worse", "tie")}
        compared = sum(counts.values())
        if compared:
            yield self._say("external_outcome", n=compared, **counts)
