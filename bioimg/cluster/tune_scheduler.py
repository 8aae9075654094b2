"""Tune's ASHA within cohorts: a trial competes only with comparable ones, also of earlier runs."""

from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from bioimg.cluster.coordinator_client import CoordinatorClient
from bioimg.cluster.tune_trial import decode_trial
from bioimg.config import TrialConfig
from bioimg.early_stopping import PastTrial, SuccessiveHalving, metric_sign
from bioimg.experiment import EarlyStopping, StopReason


class CohortScheduler(FIFOScheduler):
    """Run one ASHA for each cohort.

    ASHA decides but can't give its reason, which the row of a stopped trial must hold: our
    `SuccessiveHalving`, which `--local` uses alone, follows the same rule and works it out.

    Tune doesn't save ASHA's rungs, so what earlier runs recorded is replayed to it first. ASHA
    knows a trial by its key, so that one which is run again counts once.
    """

    def __init__(
        self, rule: EarlyStopping, earlier: Iterable[PastTrial], coordinator: CoordinatorClient
    ) -> None:
        super().__init__()
        self._early_stopping = rule
        self._coordinator = coordinator
        self._halving = SuccessiveHalving(rule)
        self._asha_by_cohort: dict[tuple[Any, ...], ASHAScheduler] = {}
        self.stopped_keys: set[str] = set()
        """Keys of the trials that were stopped in this run."""
        for trial, epochs in earlier:
            self._add_trial(trial)
            for epoch in epochs:
                self._decide(trial, epoch)

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Add a trial to its cohort."""
        self._add_trial(decode_trial(trial.config))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Decide on a trial after an epoch, and inform the coordinator before Tune acts."""
        config = decode_trial(trial.config)
        reason = self._decide(config, result)
        if reason is None:
            return TrialScheduler.CONTINUE
        self.stopped_keys.add(config.key)
        self._coordinator.stop_trial(config.key, reason)
        return TrialScheduler.STOP

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Do nothing: ASHA would treat the last epoch as a rung."""

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """Do nothing: the scores of a trial at its rungs stay."""

    def _add_trial(self, trial: TrialConfig) -> None:
        controller: Any = None  # ASHA doesn't use it
        self._cohort_asha(trial).on_trial_add(controller, _tune_trial_stub(trial))

    def _decide(self, trial: TrialConfig, epoch_row: Mapping[str, Any]) -> StopReason | None:
        """Return why ASHA stops a trial after an epoch, or None if it continues."""
        rule = self._early_stopping
        epoch = epoch_row["epoch"]
        if rule.exempts(trial) or epoch not in rule.rungs(trial.epochs):
            return None
        controller: Any = None  # ASHA doesn't use it
        decision = self._cohort_asha(trial).on_trial_result(
            controller, _tune_trial_stub(trial), dict(epoch_row)
        )
        reason = self._halving.decide(trial, epoch, epoch_row[rule.metric])
        assert (decision == TrialScheduler.STOP) == (reason is not None), (
            f"ASHA says {decision} of trial {trial.key} at epoch {epoch}, and SuccessiveHalving "
            f"{reason}: they must decide alike"
        )
        return reason

    def _cohort_asha(self, trial: TrialConfig) -> ASHAScheduler:
        cohort = self._early_stopping.cohort_key(trial)
        if cohort not in self._asha_by_cohort:
            self._asha_by_cohort[cohort] = self._create_asha(trial)
        return self._asha_by_cohort[cohort]

    def _create_asha(self, trial: TrialConfig) -> ASHAScheduler:
        rule = self._early_stopping
        return ASHAScheduler(
            time_attr="epoch",
            metric=rule.metric,
            mode="max" if metric_sign(rule.metric) > 0 else "min",
            max_t=trial.epochs + 1,  # a trial that has reached its last epoch isn't stopped
            grace_period=min(rule.rungs(trial.epochs), default=1),
            reduction_factor=rule.reduction_factor,
        )


def _tune_trial_stub(trial: TrialConfig) -> Any:
    """Return what ASHA reads of a Tune trial: its id."""
    return SimpleNamespace(trial_id=trial.key)
