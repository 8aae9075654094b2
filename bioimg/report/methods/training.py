"""Describe the models, how they were trained, and how trainings ended."""

from collections.abc import Iterator
from typing import Any

from bioimg.experiment import EarlyStopping
from bioimg.report.formatting import format_count, format_list, format_number
from bioimg.report.methods.paragraph import Paragraph, Sentence, format_range
from bioimg.report.translation import NAMED_FREEZES, translate
from bioimg.results.configurations import configuration_keys

DIGEST_LENGTH = 10


class TrainingParagraph(Paragraph):
    """How models were trained."""

    def sentences(self) -> Iterator[Sentence]:
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
        decays = [factor for factor in self._known_values("layer_decay") if factor < 1]
        if decays:
            yield self._say("layer_decay", factors=self._either(decays))
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
            yield self._say("seeds_uneven", n=format_range(seed_counts), seeds=format_list(seeds))
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
