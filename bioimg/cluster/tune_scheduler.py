"""Tune's ASHA within cohorts: a trial competes only with comparable ones, also of earlier runs."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from bioimg.cluster.coordinator_client import CoordinatorClient
from bioimg.cluster.tune_trial import decode_trial
from bioimg.config import TrialConfig
from bioimg.early_stopping import FindImages, PastTrial, StoppingRule, SuccessiveHalving
from bioimg.experiment import EarlyStopping


class CohortScheduler(FIFOScheduler):
    """Stop trials as `StoppingRule` says, with Ray's ASHA to name the candidates.

    Tune doesn't save ASHA's rungs, so what earlier runs recorded is replayed to it first.

    Args: as those of `StoppingRule`.
    """

    def __init__(
        self,
        rule: EarlyStopping,
        trials: Sequence[TrialConfig],
        earlier: Sequence[PastTrial],
        find: FindImages,
        coordinator: CoordinatorClient,
    ) -> None:
        super().__init__()
        self._coordinator = coordinator
        halving = RaySuccessiveHalving(rule)
        self._stopping_rule = StoppingRule(rule, trials, earlier, find, halving)
        self.stopped_keys: set[str] = set()
        """Keys of the trials that were stopped in this run."""

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Decide on a trial after an epoch, and inform the coordinator before Tune acts."""
        config = decode_trial(trial.config)
        reason = self._stopping_rule.decide(config, result)
        if reason is None:
            return TrialScheduler.CONTINUE
        self.stopped_keys.add(config.key)
        self._coordinator.stop_trial(config.key, reason)
        return TrialScheduler.STOP


class RaySuccessiveHalving(SuccessiveHalving):
    """Let Ray's ASHA name the candidates, one for each cohort, and check that ours agrees."""

    def __init__(self, rule: EarlyStopping) -> None:
        super().__init__(rule)
        self._asha_by_cohort: dict[tuple[Any, ...], ASHAScheduler] = {}

    def is_candidate(self, trial: TrialConfig, epoch: int, signed_score: float) -> bool:
        """Return True if ASHA would stop a trial at a rung."""
        controller: Any = None  # ASHA doesn't use it
        asha = self._cohort_asha(trial)
        stub: Any = SimpleNamespace(trial_id=trial.key)  # what ASHA reads of a Tune trial
        asha.on_trial_add(controller, stub)
        result = {"epoch": epoch, "score": signed_score}
        decision = asha.on_trial_result(controller, stub, result)
        ours = super().is_candidate(trial, epoch, signed_score)
        assert (decision == TrialScheduler.STOP) == ours, (
            f"ASHA says {decision} of trial {trial.key} at epoch {epoch}, and SuccessiveHalving "
            f"{'STOP' if ours else 'CONTINUE'}: they must decide alike"
        )
        return ours

    def _cohort_asha(self, trial: TrialConfig) -> ASHAScheduler:
        cohort = self._rule.cohort_key(trial)
        if cohort not in self._asha_by_cohort:
            self._asha_by_cohort[cohort] = self._create_asha(trial)
        return self._asha_by_cohort[cohort]

    def _create_asha(self, trial: TrialConfig) -> ASHAScheduler:
        return ASHAScheduler(
            time_attr="epoch",
            metric="score",
            mode="max",
            max_t=trial.epochs + 1,  # a trial that has reached its last epoch isn't stopped
            grace_period=min(self._rule.rungs(trial.epochs), default=1),
            reduction_factor=self._rule.reduction_factor,
        )
