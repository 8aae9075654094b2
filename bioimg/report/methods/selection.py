"""Describe how epochs and recipes were selected, and how often test results were looked at."""

from collections.abc import Iterator

from bioimg.report.formatting import format_list, format_setting
from bioimg.report.methods.paragraph import Paragraph, Sentence
from bioimg.report.translation import translate
from bioimg.results.score import MAX_CLASS_RATIO


class SelectionParagraph(Paragraph):
    """How one recipe was chosen."""

    def sentences(self) -> Iterator[Sentence]:
        yield self._say(f"score_{self._score}")
        is_automatic = self.analysis.manifest["base"].get("score") == "auto"
        if self._score == "balanced_accuracy" and is_automatic:
            yield self._say("score_auto", ratio=MAX_CLASS_RATIO)
        if self._completed.empty:
            return
        yield self._say("epoch")
        if self._score == "balanced_accuracy":
            yield self._say("balanced_loss")
        if self.analysis.tuned_fields:
            yield from self._describe_tuning()
        yield self._say("chosen_repeats" if self.analysis.has_repeats else "chosen")
        yield self._say("test_unused_folds" if self._has_folds else "test_unused")
        yield from self._describe_looks()

    def _describe_tuning(self) -> Iterator[Sentence]:
        tuned = self.analysis.tuned_fields
        tried = self.analysis.tried_values
        combinations = tried.drop_duplicates(list(tuned))
        statuses = self.analysis.all_results.trials["status"]
        folds = translate("methods.tuned_per_fold", self.lang) if self._has_folds else ""
        yield self._say(
            "tuned_one" if len(tuned) == 1 else "tuned",
            fields=self._all_of([self._field_name(field) for field in tuned]),
            folds=folds,
            n=len(combinations),
            values=format_list(format_setting(value) for value in tried[tuned[0]].unique()),
            seeds=self.analysis.manifest["tune_seeds"],
        )
        yield self._say(
            "tuned_trials", trials=len(statuses), stopped=int(statuses.eq("stopped").sum())
        )

    def _describe_looks(self) -> Iterator[Sentence]:
        if not self.looks:
            yield self._say("looks_unknown")
            return
        first = self.looks[0]
        yield self._say(
            "looks" if len(self.looks) > 1 else "looks_once",
            n=len(self.looks),
            date=first.time[:10],
            completed=first.completed,
        )
        completed = len(self._completed)
        later = completed - first.completed
        if later > 0:
            yield self._say("looks_later", later=later, completed=completed)
        else:
            yield self._say("looks_none_later")
