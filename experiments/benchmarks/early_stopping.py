"""How good early stopping is: its rule replayed on recorded curves, in many orders."""

import heapq
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks import process_tree
from benchmarks.harness import Benchmark, Outcome, Target
from bioimg.config import TrialConfig
from bioimg.early_stopping import FindImages, StoppingRule, SuccessiveHalving, ValidationImages
from bioimg.errors import UserError
from bioimg.experiment import SPLIT_FIELDS, EarlyStopping, metric_sign
from bioimg.results.result_store import ResultStore, read_results
from bioimg.results.score import image_weights
from bioimg.tuning import recipe_of

MIN_SURVIVAL = 0.9
"""The share of orders in which the winner of the full grid must complete."""

Decide = Callable[[TrialConfig, Mapping[str, Any]], object]
"""Return why a trial stops after the row of an epoch, or something false if it continues."""


@dataclass(frozen=True)
class RecordedCurve:
    """A trial and its rows of the epochs table, in order."""

    trial: TrialConfig
    epochs: Sequence[Mapping[str, Any]]

    @property
    def best_epoch(self) -> Mapping[str, Any]:
        """The epoch with the lowest validation loss, by which the headline is chosen."""
        return min(self.epochs, key=lambda epoch: epoch["val_loss"])

    @property
    def seconds(self) -> float:
        return sum(epoch["seconds"] for epoch in self.epochs)


@dataclass(frozen=True, kw_only=True)
class EarlyStoppingBenchmark(Benchmark):
    """Replays early stopping on the curves of an experiment that ran with --no-early-stopping.

    It measures how often the winner of the full grid completes, how often the most frequent
    headline is the headline, how much lower the headline's validation score is than the winner's
    (regret), and what is saved; with tuned settings also how often the best value of a recipe
    completes. Trials reach rungs as they do on lanes: in order of submission, at
    the recorded pace.
    """

    results: Path | None = None
    """a results folder; by default the built-in demo is run, which takes a minute"""
    orders: int = 720
    """orders of submission, drawn at random"""
    lanes: int = 2
    """trials at once"""
    grace_period: int | None = None
    """epochs that every trial runs; by default a tenth of its epochs, at least 2"""
    reduction_factor: int = 2
    """1 in this many trials is kept at a rung"""
    alpha: float = 0.05
    """level of the guard"""
    spare_frozen: bool = True
    """trials on a frozen backbone run in full"""
    tune: tuple[str, ...] | None = None
    """settings whose values compete within each recipe only; by default those of the results"""

    def run(self) -> Outcome:
        with tempfile.TemporaryDirectory() as folder:
            results = self.results or _run_demo(Path(folder) / "demo")
            curves, find = read_curves(results), read_validation_images(results)
            tune = read_results(results).tuned_fields if self.tune is None else self.tune
        rule = EarlyStopping(
            grace_period=self.grace_period,
            reduction_factor=self.reduction_factor,
            alpha=self.alpha,
            spare_frozen=self.spare_frozen,
        )
        trials = [curve.trial for curve in curves]
        policies: dict[str, Callable[[], Decide]] = {
            "no stopping": lambda: lambda trial, epoch: None,
            "plain ASHA": lambda: make_plain_rule(rule),
            "guarded ASHA": lambda: StoppingRule(rule, trials, [], find).decide,
        }
        if tune:
            tuned = rule.within_recipes(tune)
            policies["guarded, tuned"] = lambda: StoppingRule(tuned, trials, [], find).decide
        rows = []
        for name, make_rule in policies.items():
            rows.append({"": name, **self._replay_orders(curves, make_rule, tune)})
        title = f"{len(curves)} trials, {self.orders} orders, {self.lanes} lanes"
        return Outcome(title, rows, _targets(rows[-1]))

    def _replay_orders(
        self,
        curves: Sequence[RecordedCurve],
        make_rule: Callable[[], Decide],
        tune: Sequence[str],
    ) -> dict[str, Any]:
        """Return the means over all orders of what a policy leaves and saves."""
        generator = np.random.default_rng(0)
        replays = []
        for _ in range(self.orders):
            order = [curves[index] for index in generator.permutation(len(curves))]
            epochs_run = replay_trials(order, make_rule(), self.lanes)
            replay = score_replay(order, epochs_run)
            if tune:
                replay["best values complete"] = best_values_kept(order, epochs_run, tune)
            replays.append(replay)
        return summarise_replays(replays)


def _targets(guarded: Mapping[str, Any]) -> list[Target]:
    survival = Target(
        "winner of the full grid completes under guarded ASHA",
        guarded["winner completes"],
        MIN_SURVIVAL,
        "of orders",
    )
    stability = Target(
        "headline is the most frequent one under guarded ASHA",
        guarded["same headline"],
        MIN_SURVIVAL,
        "of orders",
    )
    return [survival, stability]


def make_plain_rule(rule: EarlyStopping) -> Decide:
    """Return ASHA without a guard: the score of the epoch at a rung decides."""
    halving = SuccessiveHalving(rule)

    def decide(trial: TrialConfig, epoch: Mapping[str, Any]) -> bool:
        if rule.exempts(trial) or epoch["epoch"] not in rule.rungs(trial.epochs):
            return False
        signed_score = metric_sign(rule.metric) * epoch[rule.metric]
        return halving.is_candidate(trial, epoch["epoch"], signed_score)

    return decide


def replay_trials(curves: Sequence[RecordedCurve], decide: Decide, lanes: int) -> list[int]:
    """Return how many epochs of each trial run when the trials are submitted in this order.

    The next event is always the earliest end of an epoch. A lane takes the next trial when its own
    has ended.
    """
    epochs_run = [0] * len(curves)
    # ends of epochs that are being trained, with the number of their trial
    events = [(curve.epochs[0]["seconds"], trial) for trial, curve in enumerate(curves[:lanes])]
    heapq.heapify(events)
    waiting = iter(range(len(events), len(curves)))
    while events:
        now, trial = heapq.heappop(events)
        curve = curves[trial]
        epoch = curve.epochs[epochs_run[trial]]
        epochs_run[trial] += 1
        if epochs_run[trial] == len(curve.epochs) or decide(curve.trial, epoch):
            next_trial = next(waiting, None)
            if next_trial is None:
                continue
            trial = next_trial
        seconds = curves[trial].epochs[epochs_run[trial]]["seconds"]
        heapq.heappush(events, (now + seconds, trial))
    return epochs_run


def score_replay(curves: Sequence[RecordedCurve], epochs_run: Sequence[int]) -> dict[str, Any]:
    """Score what is left of an experiment of which this many epochs of each trial were run."""
    completed = []
    spent_seconds = 0.0
    for curve, count in zip(curves, epochs_run, strict=True):
        spent_seconds += sum(epoch["seconds"] for epoch in curve.epochs[:count])
        if count == len(curve.epochs):
            completed.append(curve)
    winner, headline = _find_winner(curves), _find_winner(completed)
    all_epochs = sum(len(curve.epochs) for curve in curves)
    return {
        "headline": headline.trial.key,
        "winner completes": float(winner in completed),
        "regret": winner.best_epoch["val_score"] - headline.best_epoch["val_score"],
        "completed": len(completed) / len(curves),
        "epochs saved": 1 - sum(epochs_run) / all_epochs,
        "time saved": 1 - spent_seconds / sum(curve.seconds for curve in curves),
    }


def best_values_kept(
    curves: Sequence[RecordedCurve], epochs_run: Sequence[int], tune: Sequence[str]
) -> float:
    """Return the share of recipes of which the value that wins in full runs completes."""
    recipes: defaultdict[tuple[Any, ...], list[RecordedCurve]] = defaultdict(list)
    completed = []
    for curve, count in zip(curves, epochs_run, strict=True):
        recipes[*recipe_of(curve.trial, tune), curve.trial.seed].append(curve)
        if count == len(curve.epochs):
            completed.append(curve)
    kept = [_find_winner(members) in completed for members in recipes.values()]
    return sum(kept) / len(kept)


def _find_winner(curves: Sequence[RecordedCurve]) -> RecordedCurve:
    return min(curves, key=lambda curve: (curve.best_epoch["val_loss"], curve.trial.key))


def summarise_replays(replays: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the means over replays, and the share of the most frequent headline."""
    headlines = Counter(replay["headline"] for replay in replays)
    means = pd.DataFrame(replays).drop(columns="headline").mean()
    (_, count), *_ = headlines.most_common(1)
    same_headline = {"headlines": len(headlines), "same headline": count / len(replays)}
    return same_headline | {str(name): float(value) for name, value in means.items()}


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
        epochs: list[Any] = epochs_by_key[row["key"]].to_dict("records")
        curves.append(RecordedCurve(TrialConfig.from_row(row), epochs))
    return curves


def read_validation_images(folder: Path) -> FindImages:
    """Return what finds the validation images of an experiment's trials in its folder."""
    store = ResultStore(folder)
    rows = store.read_assignments().to_pandas()
    rows = rows[rows["subset"].eq("val")]
    score_used = store.score_used

    def find(trial: TrialConfig) -> ValidationImages:
        chosen = rows
        for name in SPLIT_FIELDS:
            value = getattr(trial, name)
            chosen = chosen[chosen[name].isna() if value is None else chosen[name].eq(value)]
        weights = image_weights(chosen["label"].to_numpy(), score_used)
        has_groups = chosen["group"].notna().all()
        return ValidationImages(weights, chosen["group"].to_numpy(str) if has_groups else None)

    return _remember(find)


def _remember(find: FindImages) -> FindImages:
    """Return `find` with its answers kept, one for each split."""
    known: dict[tuple[Any, ...], ValidationImages] = {}

    def find_once(trial: TrialConfig) -> ValidationImages:
        split = _split_of(trial)
        if split not in known:
            known[split] = find(trial)
        return known[split]

    return find_once


def _split_of(trial: TrialConfig) -> tuple[Any, ...]:
    return tuple(getattr(trial, name) for name in SPLIT_FIELDS)


def _run_demo(folder: Path) -> Path:
    program = str(process_tree.EXPERIMENTS_FOLDER / "grid.py")
    process_tree.measure_python([program, "--no-early-stopping", "--out", str(folder)])
    return folder
