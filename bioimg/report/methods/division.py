"""Describe how images were divided into subsets or folds."""

from collections.abc import Iterator

import pandas as pd

from bioimg.report.class_images import SUBSETS
from bioimg.report.formatting import format_count
from bioimg.report.methods.paragraph import Paragraph, Sentence, format_range


class DivisionParagraph(Paragraph):
    """How images were divided."""

    def sentences(self) -> Iterator[Sentence]:
        for split in self._known_values("split"):
            yield self._say(f"split_{split}")
        for folds in self._known_values("folds"):
            if folds:
                yield from self._describe_folds(folds)
        counts = {subset: self._image_range(f"{subset}_images") for subset in SUBSETS}
        if all(counts.values()):
            code = "counts_folds" if self._has_folds else "counts"
            yield self._say(code, **counts)
        leaks = self._trials["split_leaks_groups"]
        if leaks.eq(True).any():
            yield self._say("leak")
        elif len(leaks) and leaks.eq(False).all():
            yield self._say("leak_none")
        score = self._best_score
        if score is not None and pd.notna(score["groups"]):
            yield self._say("tested_groups", n=format_count(score["groups"]))

    def _describe_folds(self, folds: int) -> Iterator[Sentence]:
        yield self._say("folds", folds=folds)
        run = self._trials.loc[self._trials["folds"].eq(folds), "fold"].nunique()
        if run < folds:
            yield self._say("folds_run", run=run, folds=folds)

    def _image_range(self, column: str) -> str:
        counts = self._trials[column].dropna()
        if counts.empty:
            return ""
        return format_range(counts)
