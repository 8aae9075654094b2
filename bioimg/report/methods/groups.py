"""Describe how groups, such as patients, were classified, and what came out."""

from collections.abc import Iterator
from typing import Any

from bioimg.report import sentences
from bioimg.report.formatting import format_count, format_percent
from bioimg.report.methods.paragraph import Paragraph, Sentence
from bioimg.report.tested_set import GroupedSet
from bioimg.results.statistics import standard_error


class GroupsParagraph(Paragraph):
    """Groups of images, if each has one class."""

    def sentences(self) -> Iterator[Sentence]:
        known = [grouped for grouped in self.analysis.grouped_sets if grouped.has_best]
        if known:
            yield self._say(f"group_{self.analysis.results.aggregate}")
        for grouped in known:
            yield self._describe_result(grouped)

    def _describe_result(self, grouped: GroupedSet) -> Sentence:
        best: Any = grouped.scores.loc[grouped.best_key]
        return self._say(
            "group_result",
            set=sentences.tested_on(grouped, self.lang),
            n=format_count(best["images"]),
            level=format_percent(standard_error.CONFIDENCE_LEVEL, 0),
            **sentences.group_measures(best),
        )
