"""The rule of early stopping without Ray: for --local, for recorded curves, and for the numbers in a stopped row."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bioimg.config import TrialConfig
from bioimg.experiment import EarlyStopping, StopReason
from bioimg.results.result_store import ResultStore


class PastTrial(NamedTuple):
    """A trial of an earlier run and its rows of the epochs table, against which later trials are judged."""

    trial: TrialConfig
    epochs: Sequence[Mapping[str, Any]]


class SuccessiveHalving:
    """Asynchronous successive halving within cohorts, as `ray.tune.schedulers.ASHAScheduler` decides it (a test compares)."""

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
        """Why a trial that has just ended `epoch` with `score` (its metric there) must stop; None if it continues.

        A trial that comes to a rung again, because it failed and starts over, has passed that rung and counts there once.
        """
        if self._rule.exempts(trial) or epoch not in self._rule.rungs(trial.epochs):
            return None
        sign = -1 if self._rule.metric == "val_loss" else 1
        at_rung = self._scores_by_rung[(*self._rule.cohort_key(trial), epoch)]
        if trial.key in at_rung:
            return None
        scores = sorted(at_rung.values(), reverse=True)
        needed = (
            np.percentile(scores, 100 * (1 - 1 / self._rule.reduction_factor))
            if scores
            else -np.inf
        )
        at_rung[trial.key] = sign * score
        if sign * score >= needed:
            return None
        return StopReason(
            epoch, score, float(sign * needed), tuple(sign * other for other in scores), self.metric
        )


def past_trials(store: ResultStore, to_run: Iterable[TrialConfig]) -> list[PastTrial]:
    """What is on record in a results folder and isn't judged again.

    The last epoch of a trial that resumes is left out: the decision on it may have been lost, so it is judged again.
    """
    waiting = {trial.key: trial for trial in to_run}
    ended = {
        row["key"]: TrialConfig.from_row(row)
        for row in store.tables.all_rows("trials")
        if row["key"] not in waiting
    }
    epochs: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in store.tables.all_rows("epochs"):
        epochs[row["key"]].append(row)
    unfinished = [PastTrial(trial, epochs[key][:-1]) for key, trial in waiting.items()]
    return [*(PastTrial(trial, epochs[key]) for key, trial in ended.items()), *unfinished]


def unfinished_cohort_leaders(
    rule: EarlyStopping, ended: Mapping[TrialConfig, Mapping[str, Any]]
) -> list[TrialConfig]:
    """The best stopped trial of each cohort in which none was completed: the one that beat it has failed."""
    cohorts: defaultdict[tuple[Any, ...], list[TrialConfig]] = defaultdict(list)
    for trial in ended:
        cohorts[rule.cohort_key(trial)].append(trial)
    best = []
    for members in cohorts.values():
        stopped = [trial for trial in members if ended[trial]["status"] == "stopped"]
        if stopped and not any(ended[trial]["status"] == "completed" for trial in members):
            best.append(max(stopped, key=lambda trial: _rung_rank(rule, ended[trial])))
    return best


def _rung_rank(rule: EarlyStopping, row: Mapping[str, Any]) -> tuple[int, float]:
    """How far a stopped trial came; more is better. One that an earlier run judged by the other metric is compared by its
    value of this one."""
    judged = row["rung_metric"] == rule.metric
    if rule.metric == "val_loss":
        return row["stopped_at_rung"], -row["rung_score" if judged else "best_val_loss"]
    return row["stopped_at_rung"], row["rung_score" if judged else "final_val_accuracy"]
