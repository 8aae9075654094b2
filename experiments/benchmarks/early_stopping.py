"""How good early stopping is: its rule replayed on curves that were recorded in full, in many orders of submission."""

import heapq
import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks import process_tree
from benchmarks.harness import Benchmark, Outcome, Target
from bioimg.config import TRIAL_FIELDS, TrialConfig
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
    def selected_accuracy(self) -> float:
        """Validation accuracy at the epoch with the lowest validation loss."""
        return float(self.metrics["val_accuracy"][self.metrics["val_loss"].argmin()])


@dataclass(frozen=True, kw_only=True)
class EarlyStoppingBenchmark(Benchmark):
    """Replays early stopping on the curves of an experiment that ran with --no-early-stopping.

    How often a trial as good as the winner survives, how much lower the best survivor's validation accuracy is than the
    winner's (regret), whether each cohort keeps a row at full length, and what is saved. Trials arrive at rungs as they do on
    lanes: in order of submission, at the recorded pace.
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
        with tempfile.TemporaryDirectory() as name:
            curves = read_curves(self.results or _run_demo(Path(name) / "demo"))
        rows = [
            {
                "": policy,
                "grace": grace,
                "reduction": factor,
                **self._mean_scores(curves, policy, grace, factor),
            }
            for policy in RULE_OVERRIDES
            for grace in self.grace
            for factor in self.reduction
        ]
        default = EarlyStopping()
        usual = self._mean_scores(curves, "cohorts", default.grace_period, default.reduction_factor)
        best = max(curves, key=lambda curve: curve.selected_accuracy)
        error = math.sqrt(best.selected_accuracy * (1 - best.selected_accuracy) / best.val_images)
        target = Target(
            f"mean regret with the defaults (grace by length, reduction {default.reduction_factor})",
            usual["mean regret"],
            error,
            "of validation accuracy (one standard error)",
            at_most=True,
        )
        return Outcome(
            f"{len(curves)} trials, {self.orders} orders, {self.lanes} lanes", rows, [target]
        )

    def _mean_scores(
        self, curves: Sequence[RecordedCurve], policy: str, grace: int | None, factor: int
    ) -> dict[str, Any]:
        rule = EarlyStopping(grace_period=grace, reduction_factor=factor, **RULE_OVERRIDES[policy])
        orders = np.random.default_rng(0)
        found = []
        for _ in range(self.orders):
            shuffled = [curves[place] for place in orders.permutation(len(curves))]
            found.append(score_replay(shuffled, replay_trials(shuffled, rule, self.lanes)))
        return {str(name): value for name, value in pd.DataFrame(found).mean().items()}


def replay_trials(curves: Sequence[RecordedCurve], rule: EarlyStopping, lanes: int) -> list[int]:
    """How many epochs of each trial are run when they are submitted in this order.

    The next event is always the earliest end of an epoch; a lane takes the next trial when its own has ended.
    """
    halving, ran = SuccessiveHalving(rule), [0] * len(curves)
    events = [(float(curve.seconds[0]), trial) for trial, curve in enumerate(curves[:lanes])]
    waiting = iter(range(len(events), len(curves)))
    heapq.heapify(events)
    while events:
        now, trial = heapq.heappop(events)
        curve, ran[trial] = curves[trial], ran[trial] + 1
        epoch, last = ran[trial], len(curve.seconds)
        going = epoch < last and not halving.decide(
            curve.trial, epoch, float(curve.metrics[rule.metric][epoch - 1])
        )
        trial, epoch = (trial, epoch) if going else (next(waiting, None), 0)
        if trial is not None:
            heapq.heappush(events, (now + float(curves[trial].seconds[epoch]), trial))
    return ran


def score_replay(curves: Sequence[RecordedCurve], ran: Sequence[int]) -> dict[str, float]:
    """What is left of an experiment if so many epochs of each trial were run."""
    completed = [
        curve for curve, epochs in zip(curves, ran, strict=True) if epochs == len(curve.seconds)
    ]
    best, left = (
        max(curve.selected_accuracy for curve in curves),
        max((curve.selected_accuracy for curve in completed), default=0.0),
    )
    cohorts = {curve.trial.freeze for curve in curves}
    spent = sum(curve.seconds[:epochs].sum() for curve, epochs in zip(curves, ran, strict=True))
    return {
        "winner survives": float(left == best),
        "mean regret": best - left,
        "all of freeze keep a row": float({curve.trial.freeze for curve in completed} == cohorts),
        "epochs saved": 1 - sum(ran) / sum(len(curve.seconds) for curve in curves),
        "time saved": 1 - float(spent) / sum(float(curve.seconds.sum()) for curve in curves),
    }


def read_curves(folder: Path) -> list[RecordedCurve]:
    """The curves of an experiment in which every trial is completed.

    Raises:
        UserError: some aren't.
    """
    results = read_results(folder)
    cut = results.trials[results.trials["status"] != "completed"]
    if len(cut):
        raise UserError(
            f"the value of `results` is {folder}, but must be a folder in which every trial is completed, and {len(cut)} of "
            f"{len(results.trials)} aren't. Run the experiment with --no-early-stopping."
        )
    epochs = dict(iter(results.epochs.sort_values("epoch").groupby("key")))
    return list(_build_curves(results.trials, epochs))


def _build_curves(trials: pd.DataFrame, epochs: dict[Any, pd.DataFrame]) -> Iterator[RecordedCurve]:
    names = [name for name in TRIAL_FIELDS if name in trials]
    for row in trials.astype(object).where(trials.notna(), None).to_dict("records"):
        known = epochs[row["key"]]
        metrics = {name: known[name].to_numpy() for name in ("val_accuracy", "val_loss")}
        yield RecordedCurve(
            TrialConfig(**{name: row[name] for name in names}),
            metrics,
            known["seconds"].to_numpy(),
            row["val_images"],
        )


def _run_demo(folder: Path) -> Path:
    process_tree.measure_python(
        [
            str(process_tree.EXPERIMENTS_FOLDER / "grid.py"),
            "--no-early-stopping",
            "--out",
            str(folder),
        ]
    )
    return folder
