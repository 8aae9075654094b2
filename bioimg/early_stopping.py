"""Early stopping without Ray, for --local and for the numbers in a stopped row."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bioimg.config import TrialConfig
from bioimg.experiment import EarlyStopping, StopReason
from bioimg.results.result_store import ResultStore

Row = Mapping[str, Any]


class PastTrial(NamedTuple):
    """A trial of an earlier session and its rows of the epochs table.

    Later trials are judged against it.
    """

    trial: TrialConfig
    epochs: Sequence[Row]


class SuccessiveHalving:
    """Asynchronous successive halving within cohorts, as Ray's `ASHAScheduler` decides it.

    A test compares the two.
    """

    def __init__(self, rule: EarlyStopping, earlier: Iterable[PastTrial] = ()) -> None:
        self._rule = rule
        self._scores_by_rung: defaultdict[tuple[Any, ...], dict[str, float]] = defaultdict(dict)
        for trial, epochs in earlier:
            for epoch in epochs:
                self.decide(trial, epoch["epoch"], epoch[rule.metric])

    @property
    def metric(self) -> str:
        """The column of the epochs table that is compared."""
        return self._rule.metric

    def decide(self, trial: TrialConfig, epoch: int, score: float) -> StopReason | None:
        """Return why a trial must stop after `epoch`, or None if it continues.

        `score` is its metric at this epoch. A trial that reaches a rung again, because it failed
        and started over, has passed that rung and counts there once.
        """
        if self._rule.exempts(trial) or epoch not in self._rule.rungs(trial.epochs):
            return None
        rung = (*self._rule.cohort_key(trial), epoch)
        rung_scores = self._scores_by_rung[rung]
        if trial.key in rung_scores:
            return None
        sign = metric_sign(self.metric)
        signed_score = sign * score
        earlier_scores = sorted(rung_scores.values(), reverse=True)
        rung_scores[trial.key] = signed_score
        threshold = -np.inf
        if earlier_scores:
            stopped_percentage = 100 * (1 - 1 / self._rule.reduction_factor)
            threshold = np.percentile(earlier_scores, stopped_percentage)
        if signed_score >= threshold:
            return None
        return StopReason(
            stopped_at_rung=epoch,
            rung_score=score,
            rung_threshold=float(sign * threshold),
            rung_scores=tuple(sign * earlier for earlier in earlier_scores),
            rung_metric=self.metric,
        )


def metric_sign(metric: str) -> int:
    """Return the factor that makes more of a metric better: -1 for a loss."""
    return -1 if metric == "val_loss" else 1


def past_trials(store: ResultStore, to_run: Iterable[TrialConfig]) -> list[PastTrial]:
    """Return what a results folder records of trials and isn't judged again.

    The last epoch of a trial that resumes is left out: the decision on it may have been lost, so it
    is judged again.
    """
    waiting = {trial.key: trial for trial in to_run}
    trial_rows = store.tables.all_rows("trials")
    epochs: defaultdict[str, list[Row]] = defaultdict(list)
    for row in store.tables.all_rows("epochs"):
        epochs[row["key"]].append(row)
    past = []
    for row in trial_rows:
        key = row["key"]
        if key not in waiting:
            past.append(PastTrial(TrialConfig.from_row(row), epochs[key]))
    for key, trial in waiting.items():
        past.append(PastTrial(trial, epochs[key][:-1]))
    return past


def unfinished_cohort_leaders(
    rule: EarlyStopping, ended: Mapping[TrialConfig, Row]
) -> list[TrialConfig]:
    """Return the best stopped trial of each cohort without a completed one.

    The trial that beat it has failed. `ended` holds the rows of trials that have ended.
    """
    cohorts: defaultdict[tuple[Any, ...], list[TrialConfig]] = defaultdict(list)
    for trial in ended:
        cohorts[rule.cohort_key(trial)].append(trial)
    leaders = []
    for members in cohorts.values():
        statuses = {ended[trial]["status"] for trial in members}
        if "stopped" not in statuses or "completed" in statuses:
            continue
        stopped = [trial for trial in members if ended[trial]["status"] == "stopped"]
        leader = max(stopped, key=lambda trial: _rung_rank(rule, ended[trial]))
        leaders.append(leader)
    return leaders


def _rung_rank(rule: EarlyStopping, row: Row) -> tuple[int, bool, float]:
    """Return how far a stopped trial came; more is better.

    Trials that an earlier session judged by another metric come after those judged by this one.
    """
    metric = row["rung_metric"]
    return row["stopped_at_rung"], metric == rule.metric, metric_sign(metric) * row["rung_score"]
