"""Put what an analysis found into sentences, in the language of the report."""

from collections.abc import Mapping
from typing import Any, Literal

import pandas as pd

from bioimg.report.analysis import Analysis, FasterAlternative
from bioimg.report.formatting import (
    format_duration,
    format_list,
    format_number,
    format_p_equation,
    format_percent,
    format_percent_interval,
    format_points,
    format_setting,
)
from bioimg.report.report_context import ReportContext
from bioimg.report.tested_set import GroupedSet, TestedSet
from bioimg.report.translation import setting_label, setting_value, translate
from bioimg.results.statistics import SIGNIFICANCE_LEVEL

MAX_NAMED_RECIPES = 3
"""How many recipes a sentence names; of more, it gives the number."""

UNDETECTABLE = 1.0
"""The smallest detectable difference where not even the largest one can be found."""


def headline(report: ReportContext) -> str:
    """Name what validation chose, with its score on the test images."""
    best = report.analysis.best
    if best is None:
        return report.text("headline.none")
    result = report.text(
        f"score.{report.analysis.score}_result",
        score=format_percent(best.score),
        interval=format_percent_interval(best.low, best.high),
        n=best.images,
    )
    recipe = report.recipe(best.key)
    return report.text(f"headline.{report.analysis.scope}", recipe=recipe, result=result)


def headline_details(report: ReportContext) -> list[str]:
    """Say how the headline was chosen, how the others compare, and what can't be claimed."""
    analysis = report.analysis
    best = analysis.best
    if best is None:
        return []
    key = "headline.chosen_folds" if best.has_folds else "headline.chosen"
    sentences = [report.text(key, completed=analysis.status_counts["completed"])]
    if analysis.status_counts["stopped"]:
        sentences.append(_stopped_recipes(analysis, report.lang))
    if analysis.still_improving:
        sentences.append(_continuation(analysis, report.lang))
    if len(best.runs) > 1:
        sentences.append(report.text("headline.runs", runs=len(best.runs)))
    sentences.append(_outcome(report))
    improving_count = len(_worse_and_improving(analysis))
    if improving_count:
        sentences.append(report.text("outcome.improving", n=improving_count))
    if analysis.verdict_counts["tie"]:
        sentences.append(_smallest_difference(report))
    sentences += _same_value_winners(report)
    if analysis.scope == "models":
        sentences.append(report.text("headline.one_run"))
    if analysis.faster_alternative is not None:
        sentences.append(_faster_alternative(report, analysis.faster_alternative))
    return sentences


def _stopped_recipes(analysis: Analysis, lang: str) -> str:
    """Say how many recipes were stopped early, which may be better."""
    stopped = analysis.trials[analysis.trials["status"].eq("stopped")]
    count = stopped["key"].map(analysis.configuration_by_trial).nunique()
    lengths = stopped["epochs_run"].dropna().astype(int)
    fewest, most = lengths.min(), lengths.max()
    return translate(
        "headline.stopped_one" if count == 1 else "headline.stopped_some",
        lang,
        stopped=count,
        recipes=len(analysis.first_trials),
        epochs=fewest if fewest == most else f"{fewest}–{most}",
    )


def _continuation(analysis: Analysis, lang: str) -> str:
    """Say how many recipes were still improving, and what continues them: twice the epochs."""
    improving = analysis.still_improving
    epochs = analysis.first_trials.loc[sorted(improving), "epochs"].max()
    return translate(
        "headline.improving_one" if len(improving) == 1 else "headline.improving_some",
        lang,
        n=len(improving),
        recipes=len(analysis.first_trials),
        epochs=2 * epochs,
    )


def _outcome(report: ReportContext) -> str:
    """Say how the other configurations compare with the best one on the test images."""
    counts = report.analysis.verdict_counts
    compared = counts["better"] + counts["worse"] + counts["tie"]
    if report.analysis.best_pairs.empty:
        return report.text("outcome.alone")
    if not compared:
        return report.text("outcome.none_compared")
    for verdict in ("better", "worse", "tie"):
        if counts[verdict] == compared:
            number = "one" if compared == 1 else "all"
            return report.text(f"outcome.{number}_{verdict}", n=compared)
    return report.text(
        "outcome.mixed",
        n=compared,
        better=counts["better"],
        worse=counts["worse"],
        tie=counts["tie"],
    )


def _worse_and_improving(analysis: Analysis) -> set[str]:
    worse = {key for key, verdict in analysis.verdicts.items() if verdict == "worse"}
    return worse & analysis.still_improving


def describe_verdict(analysis: Analysis, configuration: str, lang: str) -> str:
    """Say in a few words how a configuration compares with the best one.

    That one is worse which could still have improved is said of the training that it had.
    """
    verdict = analysis.verdicts.get(configuration, "unknown")
    code = f"{verdict}_{analysis.scope}" if verdict in ("better", "worse") else verdict
    text = translate(f"verdict.{code}", lang)
    if configuration not in _worse_and_improving(analysis):
        return text
    return translate(
        "verdict.improving", lang, verdict=text, **_training_length(analysis, configuration)
    )


def _training_length(analysis: Analysis, configuration: str) -> dict[str, str]:
    """Return the number of epochs of a configuration and its learning rate."""
    trial: Any = analysis.first_trials.loc[configuration]
    rate = trial["learning_rate"]
    if trial["freeze"] == "features":
        rate *= trial["head_rate_factor"]
    return {"epochs": str(trial["epochs"]), "rate": format_number(rate)}


def _smallest_difference(report: ReportContext) -> str:
    pairs = report.analysis.best_pairs
    smallest = pairs.loc[pairs["verdict"].eq("tie"), "detectable"].min()
    if smallest >= UNDETECTABLE:
        return report.text("outcome.undetectable")
    return report.text("outcome.detectable", points=format_points(smallest, sign=False))


def _same_value_winners(report: ReportContext) -> list[str]:
    """Say which recipe would have come first with the same tuned values for all."""
    sentences = []
    for winner in report.analysis.first_with_same_values[:MAX_NAMED_RECIPES]:
        labels = []
        for field in report.analysis.tuned_fields:
            labels.append(setting_label(field, format_setting(winner[field]), report.lang))
        recipe = report.recipe(winner["key"])
        values = ", ".join(labels)
        sentences.append(report.text("headline.same_values", values=values, recipe=recipe))
    return sentences


def _faster_alternative(report: ReportContext, alternative: FasterAlternative) -> str:
    best = report.analysis.best
    assert best is not None
    return report.text(
        "headline.faster",
        recipe=report.recipe(alternative.key),
        margin=format_points(-alternative.margin),
        seconds=format_duration(alternative.seconds),
        best=format_duration(best.seconds),
    )


def claim(
    analysis: Analysis,
    pair: Mapping[Any, Any],
    lang: str,
    units: Literal["images", "groups"] = "images",
) -> str:
    """Say what can be claimed of configuration `a` of a pair, compared with `b`.

    pair: a row of `statistics.compare_pairs`.
    units: what was compared one by one.
    """
    if pair["reason"]:
        reason = translate(f"reason.{pair['reason']}", lang)
        return translate("pair.unknown", lang, reason=reason)
    parts = [_pair_scores(analysis, pair, lang, units), _pair_verdict(analysis, pair, lang)]
    p = f"{format_p_equation('p', pair['p'])} ({format_p_equation('Holm', pair['p_holm'])})"
    if pair["p_mcnemar"] < SIGNIFICANCE_LEVEL <= pair["p"]:
        p = translate("pair.images_only", lang, p=p)
    return translate("pair.sentence", lang, scores=parts[0], verdict=parts[1], p=p)


def _pair_scores(analysis: Analysis, pair: Mapping[Any, Any], lang: str, units: str) -> str:
    """Name both scores, and the epochs if they differ."""
    scores = translate(
        f"score.{analysis.score}_pair" if units == "images" else f"score.{analysis.score}_groups",
        lang,
        a=format_percent(pair["score_a"]),
        b=format_percent(pair["score_b"]),
        n=pair["n"],
    )
    epochs = analysis.first_trials.loc[[pair["a"], pair["b"]], "epochs"]
    if epochs.nunique() == 1:
        return scores
    return translate("pair.epochs", lang, scores=scores, a=epochs.iloc[0], b=epochs.iloc[1])


def _pair_verdict(analysis: Analysis, pair: Mapping[Any, Any], lang: str) -> str:
    low, high = pair["low"], pair["high"]
    if pair["verdict"] == "tie":
        verdict = translate("pair.tie", lang)
        if not pd.isna(low):
            verdict = translate(
                "pair.tie_interval", lang, low=format_points(low), high=format_points(high)
            )
        if pair["detectable"] >= UNDETECTABLE:
            return translate("pair.undetectable", lang, verdict=verdict)
        points = format_points(pair["detectable"], sign=False)
        return translate("pair.detectable", lang, verdict=verdict, points=points)
    difference = pair["difference"]
    if pair["verdict"] == "worse":
        # "worse by" states how much lower a is, as a positive number
        difference, low, high = -difference, -high, -low
    verdict = translate(
        f"pair.{pair['verdict']}_{pair['scope']}",
        lang,
        points=format_points(difference, sign=False),
        interval=_points_interval(low, high),
    )
    worse_one = pair["a"] if pair["verdict"] == "worse" else pair["b"]
    if worse_one not in analysis.still_improving:
        return verdict
    length = _training_length(analysis, worse_one)
    return translate(f"pair.{pair['verdict']}_improving", lang, verdict=verdict, **length)


def _points_interval(low: float, high: float, *, sign: bool = False) -> str:
    """Return an interval in brackets after a space; nothing if it is unknown."""
    if pd.isna(low):
        return ""
    return f" [{format_points(low, sign=sign)}, {format_points(high, sign=sign)}]"


def describe_external_set(report: ReportContext, tested: TestedSet) -> list[str]:
    """Say what the best recipe reaches on an external set, and whether another is ahead there."""
    selection = report.text("external.selection")
    if not tested.has_best:
        return [report.text("external.best_lost", set=tested.name), selection]
    best: Any = tested.scores.loc[tested.best_key]
    result = report.text(
        f"external.{report.analysis.score}_result",
        score=format_percent(best["score_away"]),
        interval=format_percent_interval(best["score_away_low"], best["score_away_high"]),
        n=best["images"],
    )
    change = report.text(
        "external.best",
        set=tested.name,
        result=result,
        change=format_points(best["change"]),
        interval=_points_interval(best["change_low"], best["change_high"], sign=True),
    )
    return [change, _external_order(report, tested), *_change_by_freeze(report, tested), selection]


def _external_order(report: ReportContext, tested: TestedSet) -> str:
    """Say whether another recipe has a higher score on an external set than the best one."""
    if len(tested.scores) == 1:
        return report.text("external.order_alone")
    if tested.highest_key == tested.best_key:
        return report.text("external.order_kept")
    pair: Any = tested.best_pairs.set_index("a").loc[tested.highest_key]
    scores = tested.scores["score_away"]
    return report.text(
        "external.order_turned" if pair["verdict"] == "better" else "external.order_unclear",
        recipe=report.recipe(tested.highest_key),
        points=format_points(scores[tested.highest_key] - scores[tested.best_key], sign=False),
    )


def _change_by_freeze(report: ReportContext, tested: TestedSet) -> list[str]:
    """Say how much recipes change from home to an external set, by what was trained."""
    if "freeze" not in report.analysis.varying_fields:
        return []
    levels = report.analysis.first_trials["freeze"].reindex(tested.scores.index)
    changes = []
    for level, change in tested.scores["change"].groupby(levels, sort=False).mean().items():
        name = setting_value("freeze", level, report.lang)
        changes.append(report.text("external.level", level=name, points=format_points(change)))
    return [report.text("external.by_freeze", changes=format_list(changes))]


def tested_on(grouped: GroupedSet, lang: str) -> str:
    """Name what groups are of: the test images, or an external set."""
    return grouped.name or translate("groups.test", lang)


def describe_groups(report: ReportContext, grouped: GroupedSet) -> str:
    """Say what the best recipe reaches on groups, or why this can't be said."""
    name = tested_on(grouped, report.lang)
    if grouped.problem:
        return report.text(f"groups.{grouped.problem}", set=name)
    if not grouped.has_best:
        return report.text("external.best_lost", set=name)
    best: Any = grouped.scores.loc[grouped.best_key]
    return report.text("groups.best", set=name, n=best["images"], **group_measures(best))


def group_measures(scores: Mapping[Any, Any]) -> dict[str, str]:
    """Return each measure of groups with its interval.

    scores: a row of `statistics.configuration_scores`.
    """
    shown = {}
    for measure in ("accuracy", "balanced_accuracy", "auroc"):
        interval = format_percent_interval(scores[f"{measure}_low"], scores[f"{measure}_high"])
        shown[measure] = f"{format_percent(scores[measure])}{interval}"
    return shown


def effect_refusal(report: ReportContext, effect: Mapping[Any, Any]) -> str:
    """Say why an effect isn't estimated, and for want of which trials; nothing if it is.

    effect: a row of `statistics.estimate_effects`.
    """
    if not effect["reason"]:
        return ""
    recipes = list(dict.fromkeys(report.recipe(key) for key in effect["missing"]))
    named = recipes[:MAX_NAMED_RECIPES]
    unnamed_count = len(recipes) - len(named)
    if unnamed_count:
        named.append(report.text("console.more", n=unnamed_count))
    return report.text(f"effect.{effect['reason']}", trials="; ".join(named))


def curve_reading(curve: Mapping[Any, Any], lang: str) -> str:
    """Say what a learning curve shows.

    curve: a row of `statistics.diagnose_curves`.
    """
    if "no_loss" in curve["findings"]:
        return translate("curve.unknown", lang)
    parts = [
        translate("curve.last_fall", lang, epoch=int(curve["last_fall"]), epochs=curve["epochs"])
    ]
    if "still_improving" in curve["findings"]:
        parts.append(translate("curve.still_improving", lang))
    if "overfitting" in curve["findings"]:
        parts.append(translate("curve.overfits", lang, rise=format_percent(curve["rise"], 0)))
    if "unstable" in curve["findings"]:
        points = format_points(curve["oscillation"], sign=False)
        parts.append(translate("curve.unstable", lang, points=points))
    return translate("curve.separator", lang).join(parts)
