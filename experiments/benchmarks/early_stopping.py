"""How good early stopping is: its rule replayed on recorded curves, in many orders."""

import heapq
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks import process_tree
from benchmarks.harness import Benchmark, Outcome, Target
from bioimg.config import TrialConfig
from bioimg.early_stopping import SuccessiveHalving
from bioimg.errors import UserError
from bioimg.experiment import EarlyStopping
from bioimg.results.result_store import read_results

RULE_OVERRIDES: dict[str, dict[str, Any]] = {
    "cohorts": {},
    "plain ASHA": {"compare_within": (), "spare_frozen": False},
}
"""The rule of experiments, and Ray's own."""


@dataclass(frozen=True)
class RecordedCurve:
    """A trial's epochs as recorded: metrics by name, and seconds, each [epochs]."""

    trial: TrialConfig
    metrics: dict[str, np.ndarray]
    seconds: np.ndarray
    val_images: int

    @property
    def selected_score(self) -> float:
        """Score on validation images at the epoch with the lowest validation loss."""
        return float(self.metrics["val_score"][self.metrics["val_loss"].argmin()])


@dataclass(frozen=True, kw_only=True)
class EarlyStoppingBenchmark(Benchmark):
    """Replays early stopping on the curves of an experiment that ran with --no-early-stopping.

    It measures how often a trial as good as the winner survives, how much lower the best
    survivor's validation score is than the winner's (regret), whether each cohort keeps a row
    at full length, and what is saved. Trials reach rungs as they do on lanes: in order of
    submission, at the recorded pace.
    """

    results: Path | None = None
    """a results folder; by default the built-in demo is run, which takes a minute"""
    orders: int = 200
    """orders of submission, drawn at random"""
    lanes: int = 2
    """trials at once"""
    grace: tuple[int, ...] = (1, 2, 3)
    """grace periods, in epochs"""
    reduction: tuple[int, ...] = (2, 3)
    """reduction factors"""

    def run(self) -> Outcome:
        with tempfile.TemporaryDirectory() as folder:
            curves = read_curves(self.results or _run_demo(Path(folder) / "demo"))
        rows = []
        for policy in RULE_OVERRIDES:
            for grace in self.grace:
                for factor in self.reduction:
                    scores = self._mean_scores(curves, policy, grace, factor)
                    rows.append({"": policy, "grace": grace, "reduction": factor, **scores})
        title = f"{len(curves)} trials, {self.orders} orders, {self.lanes} lanes"
        return Outcome(title, rows, [self._regret_target(curves)])

    def _regret_target(self, curves: Sequence[RecordedCurve]) -> Target:
        """Require that the default rule's regret is at most the winner's standard error."""
        rule = EarlyStopping()
        scores = self._mean_scores(curves, "cohorts", rule.grace_period, rule.reduction_factor)
        best = max(curves, key=lambda curve: curve.selected_score)
        accuracy = best.selected_score
        return Target(
            f"mean regret with the defaults (grace by length, reduction {rule.reduction_factor})",
            scores["mean regret"],
            math.sqrt(accuracy * (1 - accuracy) / best.val_images),
            "of validation accuracy (one standard error)",
            at_most=True,
        )

    def _mean_scores(
        self, curves: Sequence[RecordedCurve], policy: str, grace: int | None, factor: int
    ) -> dict[str, Any]:
        rule = EarlyStopping(grace_period=grace, reduction_factor=factor, **RULE_OVERRIDES[policy])
        generator = np.random.default_rng(0)
        scores = []
        for _ in range(self.orders):
            shuffled = [curves[index] for index in generator.permutation(len(curves))]
            scores.append(score_replay(shuffled, replay_trials(shuffled, rule, self.lanes)))
        return {str(name): value for name, value in pd.DataFrame(scores).mean().items()}


def replay_trials(curves: Sequence[RecordedCurve], rule: EarlyStopping, lanes: int) -> list[int]:
    """Return how many epochs of each trial run when the trials are submitted in this order.

    The next event is always the earliest end of an epoch. A lane takes the next trial when its own
    has ended.
    """
    halving = SuccessiveHalving(rule)
    epochs_run = [0] * len(curves)
    # ends of epochs that are being trained, with the number of their trial
    events = [(float(curve.seconds[0]), trial) for trial, curve in enumerate(curves[:lanes])]
    heapq.heapify(events)
    waiting = iter(range(len(events), len(curves)))
    while events:
        now, trial = heapq.heappop(events)
        epochs_run[trial] += 1
        if _ends(curves[trial], epochs_run[trial], halving):
            next_trial = next(waiting, None)
            if next_trial is None:
                continue
            trial = next_trial
        seconds = float(curves[trial].seconds[epochs_run[trial]])
        heapq.heappush(events, (now + seconds, trial))
    return epochs_run


def _ends(curve: RecordedCurve, epoch: int, halving: SuccessiveHalving) -> bool:
    """Return True if a trial ends after this epoch, its last one or one where it is stopped."""
    if epoch == len(curve.seconds):
        return True
    score = float(curve.metrics[halving.metric][epoch - 1])
    return halving.decide(curve.trial, epoch, score) is not None


def score_replay(curves: Sequence[RecordedCurve], epochs_run: Sequence[int]) -> dict[str, float]:
    """Score what is left of an experiment of which this many epochs of each trial were run."""
    completed = []
    spent_seconds = 0.0
    for curve, epochs in zip(curves, epochs_run, strict=True):
        spent_seconds += float(curve.seconds[:epochs].sum())
        if epochs == len(curve.seconds):
            completed.append(curve)
    best = max(curve.selected_score for curve in curves)
    best_completed = max((curve.selected_score for curve in completed), default=0.0)
    all_epochs = sum(len(curve.seconds) for curve in curves)
    all_seconds = sum(float(curve.seconds.sum()) for curve in curves)
    cohorts = {curve.trial.freeze for curve in curves}
    completed_cohorts = {curve.trial.freeze for curve in completed}
    return {
        "winner survives": float(best_completed == best),
        "mean regret": best - best_completed,
        "all of freeze keep a row": float(completed_cohorts == cohorts),
        "epochs saved": 1 - sum(epochs_run) / all_epochs,
        "time saved": 1 - spent_seconds / all_seconds,
    }


def read_curves(folder: Path) -> list[RecordedCurve]:
    """Read the curves of an experiment in which every trial is completed.

    Raises:
        UserError: a trial isn't completed.
    """
    results = read_results(folder)
    trials = results.trials
    incomplete = int((trials["status"] != "completed").sum())
    if incomplete:
        raise UserError(
            f"the value of `results` is {folder}, but must be a folder in which every trial is "
            f"completed, and {incomplete} of {len(trials)} aren't. Run the experiment with "
            "--no-early-stopping."
        )
    epochs_by_key = dict(iter(results.epochs.sort_values("epoch").groupby("key")))
    rows: list[Any] = trials.astype(object).where(trials.notna(), None).to_dict("records")
    curves = []
    for row in rows:
        epochs = epochs_by_key[row["key"]]
        curve = RecordedCurve(
            TrialConfig.from_row(row),
            {name: epochs[name].to_numpy() for name in ("val_score", "val_loss")},
            epochs["seconds"].to_numpy(),
            row["val_images"],
        )
        curves.append(curve)
    return curves


def _run_demo(folder: Path) -> Path:
    program = str(process_tree.EXPERIMENTS_FOLDER / "grid.py")
    process_tree.measure_python([program, "--no-early-stopping", "--out", str(folder)])
    return folder
