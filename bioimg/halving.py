"""The rule of early stopping, without Ray: for the local twin and for replaying recorded curves."""

from collections import defaultdict
from typing import Any

import numpy as np

from bioimg.config import TrialConfig
from bioimg.experiment import EarlyStopping


class Halving:
    """Asynchronous successive halving within cohorts, as `ray.tune.schedulers.ASHAScheduler` decides it (a test compares)."""

    def __init__(self, rule: EarlyStopping) -> None:
        self._rule = rule
        self._scores: defaultdict[tuple[Any, ...], list[float]] = defaultdict(list)

    @property
    def metric(self) -> str:
        """The column of the epochs table that is compared."""
        return self._rule.metric

    def go_on(self, trial: TrialConfig, epoch: int, score: float) -> bool:
        """Whether a trial that has just ended `epoch` with `score` (its metric there) is to be trained on."""
        if self._rule.spares(trial) or epoch not in self._rule.rungs(trial.epochs):
            return True
        sign = -1 if self._rule.metric == "val_loss" else 1
        scores = self._scores[(*self._rule.cohort(trial), epoch)]
        worse = bool(scores) and sign * score < np.percentile(scores, 100 * (1 - 1 / self._rule.reduction_factor))
        scores.append(sign * score)
        return not worse
