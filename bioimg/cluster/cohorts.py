"""Tune's ASHA within cohorts: a trial competes only with comparable trials, including those of earlier runs."""

from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any

import ray
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from bioimg.cluster.follow import trial_of
from bioimg.config import TrialConfig
from bioimg.experiment import EarlyStopping, Stop
from bioimg.halving import Earlier, Halving


class Cohorts(FIFOScheduler):
    """One ASHA for each cohort. It decides; `Halving` works out the reason, which the board gets before Tune stops the trial.

    Tune doesn't save ASHA's rungs, so what earlier runs have on record is replayed to it first. ASHA knows a trial by its key,
    so that one which is run again counts once. `stopped` has the keys of trials that were stopped in this run.
    """

    def __init__(self, rule: EarlyStopping, earlier: Iterable[Earlier], board: Any) -> None:
        super().__init__()
        self._rule, self._board, self._halving = rule, board, Halving(rule)
        self.stopped: set[str] = set()
        self._schedulers: dict[tuple[Any, ...], ASHAScheduler] = {}
        for trial, epochs in earlier:
            self._add(trial)
            for epoch in epochs:
                self._judge(trial, epoch)

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        self._add(trial_of(trial.config))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        config = trial_of(trial.config)
        why = self._judge(config, result)
        if why is None:
            return TrialScheduler.CONTINUE
        self.stopped.add(config.key)
        ray.get(self._board.stop.remote(config.key, why))
        return TrialScheduler.STOP

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Nothing: the last epoch is no rung, and ASHA would take it for one."""

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """Nothing: what a trial had at its rungs stays there."""

    def _add(self, trial: TrialConfig) -> None:
        self._of(trial).on_trial_add(None, _as_tune_knows(trial))  # type: ignore[arg-type]

    def _judge(self, trial: TrialConfig, result: Mapping[str, Any]) -> Stop | None:
        """Why ASHA stops a trial at an epoch; None if it doesn't."""
        epoch = result["epoch"]
        if self._rule.spares(trial) or epoch not in self._rule.rungs(trial.epochs):
            return None
        decision = self._of(trial).on_trial_result(None, _as_tune_knows(trial), dict(result))  # type: ignore[arg-type]
        why = self._halving.judge(trial, epoch, result[self._rule.metric])
        assert (decision == TrialScheduler.STOP) == (why is not None), (
            f"ASHA says {decision} of trial {trial.key} at epoch {epoch}, and Halving {why}: they must decide alike"
        )
        return why

    def _of(self, trial: TrialConfig) -> ASHAScheduler:
        cohort = self._rule.cohort(trial)
        if cohort not in self._schedulers:
            self._schedulers[cohort] = self._scheduler(trial)
        return self._schedulers[cohort]

    def _scheduler(self, trial: TrialConfig) -> ASHAScheduler:
        return ASHAScheduler(
            time_attr="epoch",
            metric=self._rule.metric,
            mode="min" if self._rule.metric == "val_loss" else "max",
            max_t=trial.epochs + 1,  # a trial that has come to its end isn't stopped
            grace_period=min(self._rule.rungs(trial.epochs), default=1),
            reduction_factor=self._rule.reduction_factor,
        )


def _as_tune_knows(trial: TrialConfig) -> SimpleNamespace:
    """What ASHA reads of a Tune trial: its id."""
    return SimpleNamespace(trial_id=trial.key)
