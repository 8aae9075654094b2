"""Early stopping without Ray: ASHA names candidates, and validation images decide.

`SuccessiveHalving` is the rule of ASHA. `StoppingRule` adds the guard: a candidate stops only if
the exact test of signs says that it is behind the best of its cohort. The test is one-sided, over
groups of images where groups are known, else over images, and each image has its weight in the
score; with equal weights it is McNemar's test (1947).
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from bioimg.config import TrialConfig
from bioimg.data.image_set import Dataset
from bioimg.experiment import EarlyStopping, StopReason, metric_sign
from bioimg.results.result_store import ResultStore
from bioimg.results.score import image_weights, resolve_score

Row = Mapping[str, Any]


class PastTrial(NamedTuple):
    """A trial of an earlier session and its rows of the epochs table.

    Later trials are judged against it.
    """

    trial: TrialConfig
    epochs: Sequence[Row]


class ValidationImages(NamedTuple):
    """What the guard needs to know of the validation images of a trial.

    weights: float64 [N], what each adds to the score.
    groups: [N], names of the groups that they belong to; None if groups are unknown.
    """

    weights: np.ndarray
    groups: np.ndarray | None


FindImages = Callable[[TrialConfig], ValidationImages]
"""Return the validation images of a trial."""


def find_images(datasets: Mapping[TrialConfig, Dataset]) -> FindImages:
    """Return what finds the validation images of trials in their data sets."""

    def find(trial: TrialConfig) -> ValidationImages:
        images, indices = datasets[trial].images, datasets[trial].split.val
        score_used = resolve_score(trial.score, images.class_counts)
        groups = None
        if images.groups is not None:
            groups = np.array([images.groups[index] for index in indices])
        return ValidationImages(image_weights(images.labels[indices], score_used), groups)

    return find


class SuccessiveHalving:
    """Asynchronous successive halving, as Ray's `ASHAScheduler` decides it.

    A test compares the two.
    """

    def __init__(self, rule: EarlyStopping) -> None:
        self._rule = rule
        self._scores_by_rung: defaultdict[tuple[Any, ...], list[float]] = defaultdict(list)

    def is_candidate(self, trial: TrialConfig, epoch: int, signed_score: float) -> bool:
        """Return True if a trial isn't among the best of those that came to a rung before it.

        Each trial comes to a rung once.

        signed_score: more is better.
        """
        scores = self._scores_by_rung[*self._rule.cohort_key(trial), epoch]
        stopped_percentage = 100 * (1 - 1 / self._rule.reduction_factor)
        is_candidate = bool(scores) and signed_score < np.percentile(scores, stopped_percentage)
        scores.append(signed_score)
        return bool(is_candidate)


class StoppingRule:
    """Decide at each rung whether a trial stops.

    A trial is judged by its best epoch so far. Another trial counts with the best of its epochs
    up to the same number of epochs and of steps. So a large batch isn't compared with a small one
    that made more steps, nor a small batch with a large one that saw the images more often.

    Args:
        rule: what the user asks for.
        trials: those that will be judged, of which the smallest batches must be known before.
        earlier: those of earlier sessions.
        find: return the validation images of a trial.
        halving: what names the candidates.
    """

    def __init__(
        self,
        rule: EarlyStopping,
        trials: Iterable[TrialConfig],
        earlier: Sequence[PastTrial],
        find: FindImages,
        halving: SuccessiveHalving | None = None,
    ) -> None:
        self._rule = rule
        self._find_images = find
        self._sign = metric_sign(rule.metric)
        self._halving = halving or SuccessiveHalving(rule)
        self._curves: defaultdict[tuple[Any, ...], dict[str, _Curve]] = defaultdict(dict)
        self._smallest_batches: dict[tuple[Any, ...], int] = {}
        for trial in [*trials, *(past.trial for past in earlier)]:
            cohort = rule.cohort_key(trial)
            smallest = self._smallest_batches.get(cohort, trial.batch_size)
            self._smallest_batches[cohort] = min(smallest, trial.batch_size)
        for trial, epochs in earlier:
            for epoch in epochs:
                self._is_candidate(trial, epoch)

    def decide(self, trial: TrialConfig, epoch: Row) -> StopReason | None:
        """Return why a trial must stop after an epoch, or None if it continues.

        Every epoch must be given, since the best one counts. An epoch that was given before, by a
        trial that failed and started over, has been decided on.

        epoch: its row of the epochs table.
        """
        if not self._is_candidate(trial, epoch):
            return None
        return self._find_reason(trial, epoch["epoch"])

    def _is_candidate(self, trial: TrialConfig, epoch: Row) -> bool:
        """Record an epoch. Return True if it is a rung at which ASHA would stop the trial."""
        if self._rule.exempts(trial):
            return False
        cohort = self._rule.cohort_key(trial)
        curve = self._curves[cohort].setdefault(trial.key, _Curve(trial))
        number = epoch["epoch"]
        if number <= curve.epochs_run:
            return False
        curve.add(number, self._sign * epoch[self._rule.metric], epoch["val_correct"])
        smallest_batch = self._smallest_batches.get(cohort, trial.batch_size)
        batch_ratio = trial.batch_size / smallest_batch
        if number not in self._rule.rungs(trial.epochs, batch_ratio):
            return False
        signed_score = curve.best_until(number).signed_score
        return self._halving.is_candidate(trial, number, signed_score)

    def _find_reason(self, trial: TrialConfig, epoch: int) -> StopReason | None:
        """Return why a candidate must stop, or None if the evidence doesn't suffice.

        Rows of earlier versions don't say which images were right: they are no evidence.
        """
        curves = self._curves[self._rule.cohort_key(trial)]
        rivals = []
        for other in curves.values():
            limit = min(epoch, epoch * other.trial.batch_size // trial.batch_size)
            if other.trial.key != trial.key and 1 <= limit <= other.epochs_run:
                rivals.append((other.best_until(limit), other.trial.key, limit))
        if not rivals:
            return None
        # of equally good ones the key decides, so that the order of arrival doesn't
        rival, rival_key, limit = max(rivals, key=lambda rival: (rival[0].signed_score, rival[1]))
        own = curves[trial.key].best_until(epoch)
        if own.correct is None or rival.correct is None:
            return None
        images = self._find_images(trial)
        difference = _unpack(rival.correct, images) - _unpack(own.correct, images)
        p = lag_p_value(difference, images)
        if p > self._rule.alpha:
            return None
        return StopReason(
            stopped_at_rung=epoch,
            rung_metric=self._rule.metric,
            rung_score=self._sign * own.signed_score,
            lost_to=rival_key,
            lost_to_score=self._sign * rival.signed_score,
            lost_to_epochs=limit,
            lost_images=int((difference > 0).sum()),
            won_images=int((difference < 0).sum()),
            lost_p=p,
        )


class _BestEpoch(NamedTuple):
    """The best epoch of a trial until some epoch; more of the score is better."""

    epoch: int
    signed_score: float
    correct: bytes | None


@dataclass
class _Curve:
    """The epochs of a trial that were better than all before them."""

    trial: TrialConfig
    epochs_run: int = 0
    bests: list[_BestEpoch] = field(default_factory=list)

    def add(self, epoch: int, signed_score: float, correct: bytes | None) -> None:
        """Add the next epoch."""
        self.epochs_run = epoch
        if not self.bests or signed_score > self.bests[-1].signed_score:
            self.bests.append(_BestEpoch(epoch, signed_score, correct))

    def best_until(self, epoch: int) -> _BestEpoch:
        """Return the best epoch until this one."""
        return [best for best in self.bests if best.epoch <= epoch][-1]


def lag_p_value(difference: np.ndarray, images: ValidationImages) -> float:
    """Return the one-sided p-value of a trial being behind another; 1 if it isn't.

    difference: int [N], 1 where only the other is right, -1 where only the trial is, else 0.
    """
    from bioimg.results.statistics.standard_error import ROUNDING_TOLERANCE, sign_flip_test

    contributions = difference * images.weights
    if images.groups is not None:
        _, codes = np.unique(images.groups, return_inverse=True)
        contributions = np.bincount(codes, contributions)
    if contributions.sum() <= ROUNDING_TOLERANCE:
        return 1.0
    return sign_flip_test(contributions) / 2


def _unpack(correct: bytes, images: ValidationImages) -> np.ndarray:
    """Return int8 [N]: 1 for each validation image that was classified correctly."""
    bits = np.unpackbits(np.frombuffer(correct, np.uint8), count=len(images.weights))
    return bits.astype(np.int8)


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
