"""The words that all paragraphs share, and what they know of the results."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from bioimg.report.analysis import Analysis
from bioimg.report.class_images import TextTable, build_class_table
from bioimg.report.formatting import format_count, format_number
from bioimg.report.translation import (
    column_header,
    read_catalogue,
    setting_label,
    translate,
)
from bioimg.results.looks import Look
from bioimg.results.result_store import recorded_score


@dataclass(frozen=True)
class Sentence:
    """A statement about what was done, with the code of its text, by which a checklist names it."""

    code: str
    text: str


@dataclass(frozen=True, eq=False)
class Paragraph:
    """A paragraph of a methods section. A sentence that isn't known to be true is left out."""

    analysis: Analysis
    looks: Sequence[Look]
    """When test results were shown."""
    lang: str

    def sentences(self) -> Iterator[Sentence]:
        """Yield the sentences, in the past tense."""
        raise NotImplementedError

    # Words

    def _say(self, code: str, /, **values: object) -> Sentence:
        return Sentence(code, translate(f"methods.{code}", self.lang, **values))

    def _either_choice(self, field: str) -> str:
        """Return the phrases for the values of a field, joined by `or`."""
        phrases = []
        for value in self._known_values(field):
            phrases.append(translate(f"methods.{field}_{value}", self.lang))
        return self._either(phrases)

    def _either_number(self, field: str) -> str:
        return self._either(map(format_number, sorted(self._known_values(field))))

    def _either(self, items: Iterable[object]) -> str:
        return self._join(items, translate("methods.or", self.lang))

    def _all_of(self, items: Iterable[object]) -> str:
        return self._join(items, translate("methods.and", self.lang))

    def _join(self, items: Iterable[object], word: str) -> str:
        texts = list(map(str, items))
        if len(texts) < 2:
            return "".join(texts)
        separator = translate("methods.separator", self.lang)
        return separator.join(texts[:-1]) + word + texts[-1]

    def _field_name(self, field: str) -> str:
        """Return what a field is called in a sentence."""
        name = read_catalogue(self.lang).get(f"methods.field_{field}")
        return name or column_header(field, self.lang)

    def _recipe(self, key: str) -> str:
        """Name a recipe in full; the page, which has less room, shortens long names."""
        trial = self.analysis.first_trials.loc[key]
        labels = []
        for field in self.analysis.varying_fields:
            labels.append(setting_label(field, trial[field], self.lang))
        return ", ".join(labels) or str(trial["model"])

    # What is known

    @property
    def _trials(self) -> pd.DataFrame:
        return self.analysis.trials

    @cached_property
    def _completed(self) -> pd.DataFrame:
        return self._trials[self._trials["status"].eq("completed")]

    @property
    def _has_folds(self) -> bool:
        return self._trials["fold"].nunique() > 1

    @property
    def _score(self) -> str:
        return recorded_score(self.analysis.manifest)

    @property
    def _score_name(self) -> str:
        return translate(f"methods.name_{self._score}", self.lang)

    def _known_values(self, field: str) -> list[Any]:
        """Return the different values in a column of trials, in the order of the grid."""
        return self._trials[field].dropna().unique().tolist()

    @cached_property
    def _best_score(self) -> Any:
        """The row of `Analysis.configuration_scores` of the chosen recipe."""
        if self.analysis.best is None:
            return None
        return self.analysis.configuration_scores.loc[self.analysis.best.key]

    @property
    def _sessions(self) -> list[dict[str, Any]]:
        return self.analysis.manifest.get("runs", [])

    @cached_property
    def _class_table(self) -> TextTable | None:
        """Images and groups by class and, where there is one split, by subset."""
        return build_class_table(self.analysis.results, self._trials, self.lang)


def format_range(counts: pd.Series) -> str:
    """Return the smallest and the largest of several counts; one number if they are equal."""
    low, high = int(counts.min()), int(counts.max())
    return format_count(low) if low == high else f"{format_count(low)}–{format_count(high)}"
