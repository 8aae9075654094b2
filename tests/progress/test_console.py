"""The table of a running experiment."""

import dataclasses
import io

from rich.console import Console

from bioimg.config import TrialConfig
from bioimg.progress.console import BEST_VALUE_MARK, ProgressTable

RATES = (0.1, 0.2, 0.3)


def tuned_trials(**fields) -> list[TrialConfig]:
    """Return a trial for each rate."""
    return [TrialConfig(learning_rate=rate, **fields) for rate in RATES]


def epoch(number: int, val_loss: float) -> dict:
    """Return an epoch as listeners get it."""
    scores = {"train_loss": 1.0, "val_loss": val_loss, "val_score": 0.5}
    return {"epoch": number, "seconds": 1.0, **scores}


def marked_rates(table: ProgressTable, console: Console) -> list[str]:
    """Return the learning rates that the table marks as the best so far."""
    with console.capture() as capture:
        console.print(table.render())
    lines = capture.get().splitlines()[1:]
    return [line.split()[0] for line in lines if line.rstrip().endswith(BEST_VALUE_MARK)]


def make_table(trials: list[TrialConfig], **options) -> tuple[ProgressTable, Console]:
    console = Console(file=io.StringIO(), width=120)
    tune = ("learning_rate",)
    axes = ("learning_rate", "batch_size")
    return ProgressTable(trials, axes, {}, console, "accuracy", tune=tune, **options), console


def test_the_best_value_of_each_recipe_so_far_is_marked():
    small, large = tuned_trials(batch_size=16), tuned_trials(batch_size=32)
    table, console = make_table([*small, *large])
    assert marked_rates(table, console) == []
    for trial, loss in zip(small, (0.5, 0.4, 0.6), strict=True):
        table.on_epoch(trial.key, epoch(1, loss))
    assert marked_rates(table, console) == ["0.2"]
    table.on_epoch(small[2].key, epoch(2, 0.1))
    table.on_epoch(small[2].key, epoch(3, 0.9))
    table.on_epoch(large[0].key, epoch(1, 0.9))
    assert marked_rates(table, console) == ["0.3", "0.1"]
    table.on_trial_end(small[2].key, "failed")
    assert marked_rates(table, console) == ["0.2", "0.1"]


def test_epochs_of_earlier_sessions_count():
    trials = tuned_trials()
    losses = {trials[0].key: 0.2, trials[1].key: 0.3}
    table, console = make_table(trials, lowest_losses=losses)
    assert marked_rates(table, console) == ["0.1"]


def test_a_value_that_runs_alone_is_not_marked():
    trials = tuned_trials()
    chosen = dataclasses.replace(trials[1], seed=1)
    table, console = make_table([*trials, chosen])
    table.on_epoch(chosen.key, epoch(1, 0.1))
    assert marked_rates(table, console) == []


def test_trials_that_become_known_later_are_counted():
    table, console = make_table(tuned_trials(), expected_count=5)
    with console.capture() as capture:
        console.print(table.render())
    assert "then 2 trials with the chosen values and other seeds" in capture.get()
