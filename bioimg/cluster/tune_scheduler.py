"""Tune's ASHA within cohorts: a trial competes only with comparable trials, including those of earlier runs."""

from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any

import ray
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from bioimg.cluster.tune_trial import decode_trial
from bioimg.config import TrialConfig
from bioimg.early_stopping import PastTrial, SuccessiveHalving
from bioimg.experiment import EarlyStopping, StopReason


class CohortScheduler(FIFOScheduler):
    """One ASHA for each cohort. It decides; `Halving` works out the reason, which the board gets before Tune stops the trial.

    Tune doesn't save ASHA's rungs, so what earlier runs have on record is replayed to it first. ASHA knows a trial by its key,
    so that one which is run again counts once. `stopped` has the keys of trials that were stopped in this run.
    """

    def __init__(self, rule: EarlyStopping, earlier: Iterable[PastTrial], board: Any) -> None:
        super().__init__()
        self._early_stopping, self._coordinator, self._halving = (
            rule,
            board,
            SuccessiveHalving(rule),
        )
        self.stopped_keys: set[str] = set()
        self._asha_by_cohort: dict[tuple[Any, ...], ASHAScheduler] = {}
        for trial, epochs in earlier:
            self._add_trial(trial)
            for epoch in epochs:
                self._decide(trial, epoch)

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        self._add_trial(decode_trial(trial.config))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        config = decode_trial(trial.config)
        why = self._decide(config, result)
        if why is None:
            return TrialScheduler.CONTINUE
        self.stopped_keys.add(config.key)
        ray.get(self._coordinator.stop_trial.remote(config.key, why))
        return TrialScheduler.STOP

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Nothing: the last epoch is no rung, and ASHA would take it for one."""

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """Nothing: what a trial had at its rungs stays there."""

    def _add_trial(self, trial: TrialConfig) -> None:
        self._cohort_asha(trial).on_trial_add(None, _tune_trial_stub(trial))  # type: ignore[arg-type]

    def _decide(self, trial: TrialConfig, result: Mapping[str, Any]) -> StopReason | None:
        """Why ASHA stops a trial at an epoch; None if it doesn't."""
        epoch = result["epoch"]
        if self._early_stopping.exempts(trial) or epoch not in self._early_stopping.rungs(
            trial.epochs
        ):
            return None
        stub: Any = _tune_trial_stub(trial)
        controller: Any = None  # ASHA doesn't use it
        decision = self._cohort_asha(trial).on_trial_result(controller, stub, dict(result))
        why = self._halving.decide(trial, epoch, result[self._early_stopping.metric])
        assert (decision == TrialScheduler.STOP) == (why is not None), (
            f"ASHA says {decision} of trial {trial.key} at epoch {epoch}, and Halving {why}: they must decide alike"
        )
        return why

    def _cohort_asha(self, trial: TrialConfig) -> ASHAScheduler:
        cohort = self._early_stopping.cohort_key(trial)
        if cohort not in self._asha_by_cohort:
            self._asha_by_cohort[cohort] = self._create_asha(trial)
        return self._asha_by_cohort[cohort]

    def _create_asha(self, trial: TrialConfig) -> ASHAScheduler:
        return ASHAScheduler(
            time_attr="epoch",
            metric=self._early_stopping.metric,
            mode="min" if self._early_stopping.metric == "val_loss" else "max",
            max_t=trial.epochs + 1,  # a trial that has come to its end isn't stopped
            grace_period=min(self._early_stopping.rungs(trial.epochs), default=1),
            reduction_factor=self._early_stopping.reduction_factor,
        )


def _tune_trial_stub(trial: TrialConfig) -> SimpleNamespace:
    """What ASHA reads of a Tune trial: its id."""
    return SimpleNamespace(trial_id=trial.key)
