"""Write what was done as a methods section: sentences, each of which is true of these results.

A sentence is a code with the values that it shows, so that a checklist can name it.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from bioimg.experiment import EarlyStopping
from bioimg.report.analysis import Analysis
from bioimg.report.class_images import SUBSETS, TextTable, build_class_table
from bioimg.report.formatting import (
    format_count,
    format_fixed,
    format_list,
    format_number,
    format_percent,
    format_setting,
)
from bioimg.report.translation import (
    NAMED_FREEZES,
    column_header,
    read_catalogue,
    setting_label,
    translate,
)
from bioimg.results.configurations import configuration_keys
from bioimg.results.looks import Look
from bioimg.results.result_store import recorded_score
from bioimg.results.score import MAX_CLASS_RATIO
from bioimg.results.statistics import comparison_tests, standard_error
from bioimg.results.statistics.metrics import CALIBRATION_BINS

SECTION_NAMES = ("images", "division", "training", "selection", "statistics", "software", "result")
DIGEST_LENGTH = 10


@dataclass(frozen=True)
class Sentence:
    """A statement about what was done, with the code of its text."""

    code: str
    text: str


@dataclass(frozen=True)
class Section:
    """A paragraph with its title."""

    title: str
    sentences: tuple[Sentence, ...]
    separator: str
    """What stands between two sentences."""

    @property
    def paragraph(self) -> str:
        """The sentences as one text."""
        return self.separator.join(sentence.text for sentence in self.sentences)


@dataclass(frozen=True)
class Methods:
    """What was done, for the methods and results of a paper."""

    sections: tuple[Section, ...]
    class_table: TextTable | None
    """Images and groups of each class in each subset; None if they weren't recorded."""

    def sentences(self) -> Iterator[Sentence]:
        """Yield the sentences of all sections."""
        for section in self.sections:
            yield from section.sentences


def describe_methods(analysis: Analysis, looks: Sequence[Look], lang: str = "en") -> Methods:
    """Describe what was done.

    Args:
        analysis: what the results show.
        looks: when test results were shown.
        lang: the language of the sentences.
    """
    description = _Description(analysis, looks, lang)
    sections = []
    for name in SECTION_NAMES:
        sentences = tuple(getattr(description, name)())
        if sentences:
            title = translate(f"methods.title_{name}", lang)
            sections.append(Section(title, sentences, translate("methods.space", lang)))
    return Methods(tuple(sections), description.class_table)


@dataclass(frozen=True, eq=False)
class _Description:
    """The sentences of each section. One is left out where it isn't known to be true."""

    analysis: Analysis
    looks: Sequence[Look]
    lang: str

    # Images

    def images(self) -> Iterator[Sentence]:
        data = self.analysis.manifest["data"]
        yield self._say(
            "images",
            data=data["name"],
            images=format_count(data["images"]),
            classes=len(data["classes"]),
            names=self._all_of(data["classes"]),
        )
        if data["synthetic"]:
            yield self._say("synthetic")
        yield from self._describe_groups()
        if self.class_table:
            yield self._say("class_table")
        yield from self._describe_exclusions()
        yield self._say("fingerprint", fingerprint=data["fingerprint"])
        yield self._say(
            "resizing", how=self._either_choice("resize"), sizes=self._either(self._image_sizes())
        )
        for channels in self._known_values("channels"):
            yield self._say("channels", channels=channels)
        yield self._say("scaling", how=self._either_choice("scaling"))
        yield self._say("normalisation")

    def _describe_groups(self) -> Iterator[Sentence]:
        groups = self.analysis.manifest["data"].get("groups")
        patterns = self._known_values("group_pattern")
        if patterns == ["copies"]:
            yield self._say("group_copies")
        if groups is None or patterns == ["copies"]:
            yield self._say("groups_unknown")
            return
        yield self._say("groups", groups=format_count(groups))
        if patterns == ["parent"]:
            yield self._say("group_parent")
        elif patterns:
            yield self._say("group_pattern", pattern=self._either(patterns))

    def _describe_exclusions(self) -> Iterator[Sentence]:
        unreadable = self._trials["unreadable_skipped"].max()
        if unreadable > 0:
            yield self._say("unreadable", n=format_count(unreadable))
        elif unreadable == 0:
            yield self._say("unreadable_none")
        ignored = self._trials["ignored_files"].max()
        if ignored > 0:
            yield self._say("ignored", n=format_count(ignored))
        look_alikes = self._trials["look_alike_images_across_splits"].max()
        if look_alikes > 0:
            yield self._say("look_alikes", n=format_count(look_alikes))
        copies = self._trials["duplicate_images_across_splits"].max()
        if copies > 0:
            yield self._say("copies", n=format_count(copies))
        elif copies == 0:
            yield self._say("copies_none")

    def _image_sizes(self) -> list[str]:
        return [f"{size} × {size}" for size in self._known_values("image_size")]

    @cached_property
    def class_table(self) -> TextTable | None:
        """Images and groups by class and, where there is one split, by subset."""
        return build_class_table(self.analysis.results, self._trials, self.lang)

    # Division

    def division(self) -> Iterator[Sentence]:
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
        return _range(counts)

    # Training

    def training(self) -> Iterator[Sentence]:
        yield from self._describe_recipes()
        yield from self._describe_model()
        yield from self._describe_optimisation()
        yield from self._describe_repeats()
        yield from self._describe_endings()

    def _describe_recipes(self) -> Iterator[Sentence]:
        fields = self.analysis.varying_fields
        count = len(self.analysis.first_trials)
        if fields:
            names = [self._field_name(field) for field in fields]
            yield self._say("recipes", n=count, fields=self._all_of(names))
        elif count:
            yield self._say("recipe")

    def _describe_model(self) -> Iterator[Sentence]:
        yield self._say("model", models=self._either(self._known_values("model")))
        yield self._say("weights", weights=self._either(self._weights_texts()))
        yield self._say("head")
        yield self._say("output")
        layers = []
        for value in self._known_values("freeze"):
            code = f"freeze_{value}" if value in NAMED_FREEZES else "freeze_stage"
            layers.append(translate(f"methods.{code}", self.lang, stage=value))
        yield self._say("layers", layers=self._either(layers))
        if self._known_values("freeze") != ["none"]:
            yield self._say("frozen")
        parameters = sorted(set(self._known_values("trained_parameters")))
        if parameters:
            yield self._say("parameters", n=self._either(map(format_count, parameters)))

    def _weights_texts(self) -> list[str]:
        texts = []
        for weights, trials in self._trials.groupby("weights", sort=False):
            if weights == "none":
                texts.append(translate("methods.weights_none", self.lang))
                continue
            digests = list(trials["weights_digest"].dropna().str[:DIGEST_LENGTH].unique())
            if digests:
                digest = ", ".join(digests)
                texts.append(
                    translate("methods.weights_digest", self.lang, weights=weights, digest=digest)
                )
            else:
                texts.append(str(weights))
        return texts

    def _describe_optimisation(self) -> Iterator[Sentence]:
        yield self._say("loss", loss=self._either_choice("class_weights"))
        yield self._say(
            "optimizer",
            optimizer=self._either_choice("optimizer"),
            rates=self._either_number("learning_rate"),
            decays=self._either_number("weight_decay"),
        )
        trains_head_alone = self._trials["freeze"].isin(("features", "head-first"))
        if (trains_head_alone & self._trials["head_rate_factor"].ne(1)).any():
            yield self._say("head_rate", factors=self._either_number("head_rate_factor"))
        warmups = [epochs for epochs in self._known_values("warmup") if epochs]
        if warmups:
            yield self._say("warmup", epochs=self._either(warmups))
        yield self._say("schedule", schedule=self._either_choice("schedule"))
        yield self._say("batch_size", sizes=self._either_number("batch_size"))
        workers = [count for count in self._known_values("workers") if count > 1]
        if workers:
            yield self._say("workers", workers=self._either(workers))
        yield self._say("sampling", sampling=self._either_choice("sampling"))
        yield from self._describe_imbalance()
        yield self._say("augmentation", augmentation=self._either_choice("augmentation"))
        yield self._say("epochs", epochs=self._either_number("epochs"))
        patience = [epochs for epochs in self._known_values("patience") if epochs]
        if patience:
            yield self._say(
                "patience",
                epochs=self._either(patience),
                metric=self._either_choice("patience_metric"),
            )

    def _describe_imbalance(self) -> Iterator[Sentence]:
        means = []
        for field in ("class_weights", "sampling"):
            if "balanced" in self._known_values(field):
                means.append(translate(f"methods.means_{field}", self.lang))
        if means:
            yield self._say("imbalance", means=self._either(means))
        else:
            yield self._say("imbalance_none")

    def _describe_repeats(self) -> Iterator[Sentence]:
        configurations = configuration_keys(self._trials, self.analysis.tuned_fields)
        seed_counts = self._trials.groupby(configurations)["seed"].nunique()
        seeds = sorted(self._known_values("seed"))
        if seed_counts.empty:
            return
        if seed_counts.nunique() > 1:
            yield self._say("seeds_uneven", n=_range(seed_counts), seeds=format_list(seeds))
        elif seed_counts.iloc[0] == 1:
            yield self._say("seed", seeds=self._either(seeds))
        else:
            yield self._say("seeds", n=seed_counts.iloc[0], seeds=format_list(seeds))
        yield self._say("seed_meaning")

    def _describe_endings(self) -> Iterator[Sentence]:
        counts = self.analysis.status_counts
        yield self._say(
            "endings",
            trials=len(self._trials),
            completed=counts["completed"],
            stopped=counts["stopped"],
            failed=counts["failed"],
        )
        if counts["stopped"] or counts["failed"]:
            yield self._say("untested")
        rule = self.analysis.manifest.get("early_stopping")
        if rule:
            yield from self._describe_early_stopping(rule)
        elif counts["stopped"]:
            yield self._say("stopped_before", stopped=counts["stopped"])
        else:
            yield self._say("no_stopping")
        rules = [run["early_stopping"] for run in self._sessions if "early_stopping" in run]
        if len(rules) > 1:
            yield self._say("stopping_changed")

    def _describe_early_stopping(self, rule: dict[str, Any]) -> Iterator[Sentence]:
        known = EarlyStopping(
            grace_period=rule["grace_period"], reduction_factor=rule["reduction_factor"]
        )
        rungs: set[int] = set()
        for epochs in self._known_values("epochs"):
            rungs.update(known.rungs(epochs))
        if not rungs:
            yield self._say("no_stopping")
            return
        yield self._say(
            "stopping",
            metric=translate(f"methods.metric_{rule['metric']}", self.lang),
            factor=rule["reduction_factor"],
            rungs=self._either(sorted(rungs)),
        )
        if "alpha" in rule:  # rules of earlier versions lack it
            yield self._say("stopping_guard", alpha=format_number(rule["alpha"]))
            if len(self._known_values("batch_size")) > 1:
                yield self._say("stopping_steps")
        within = [self._field_name(field) for field in rule["compare_within"]]
        # where fields are tuned, only their values compete, as is said there
        if within and not self.analysis.tuned_fields:
            yield self._say("stopping_within", fields=self._all_of(within))
        if rule.get("spare_frozen") and "features" in self._known_values("freeze"):
            yield self._say("stopping_spared")

    # Selection

    def selection(self) -> Iterator[Sentence]:
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

    # Statistics

    def statistics(self) -> Iterator[Sentence]:
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

    # Software

    def software(self) -> Iterator[Sentence]:
        manifest = self.analysis.manifest
        versions = [f"{name} {version}" for name, version in manifest["versions"].items()]
        yield self._say("versions", versions=self._all_of(versions))
        if manifest.get("commit"):
            yield self._say("commit", commit=manifest["commit"])
        if sum("versions" in run for run in self._sessions) > 1:
            yield self._say("versions_changed")
        devices = self._known_values("device")
        if devices:
            yield self._say("devices", devices=self._either(devices))
        precisions = self._known_values("precision_used")
        if precisions:
            yield self._say("precision", precisions=self._either(precisions))
        hardware = manifest.get("hardware") or {}
        if hardware.get("machine") and hardware.get("cpus"):
            yield self._say("hardware", machine=hardware["machine"], cpus=hardware["cpus"])
        if not manifest.get("complete"):
            yield self._say("incomplete")
        elif manifest.get("created") and manifest.get("finished"):
            start, end = manifest["created"][:10], manifest["finished"][:10]
            yield self._say("date" if start == end else "dates", start=start, end=end)
        if self._sessions:
            yield self._say("sessions", n=len(self._sessions))

    @property
    def _sessions(self) -> list[dict[str, Any]]:
        return self.analysis.manifest.get("runs", [])

    # Result

    def result(self) -> Iterator[Sentence]:
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

    @cached_property
    def _best_score(self) -> Any:
        """The row of `Analysis.configuration_scores` of the chosen recipe."""
        if self.analysis.best is None:
            return None
        return self.analysis.configuration_scores.loc[self.analysis.best.key]

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


def _range(counts: pd.Series) -> str:
    low, high = int(counts.min()), int(counts.max())
    return format_count(low) if low == high else f"{format_count(low)}–{format_count(high)}"
