"""Small experiments, and ways to run them."""

import dataclasses
import io
import sys
from pathlib import Path

from rich.console import Console

from bioimg import runner
from bioimg.cli import main
from bioimg.config import TrialConfig
from bioimg.experiment import EarlyStopping, Experiment, StopReason
from bioimg.results.result_store import Results, read_results
from bioimg.run_options import RunOptions
from support import PROJECT, toys

GRID_PROGRAM = PROJECT / "experiments" / "grid.py"
QUICK_FLAGS = [
    "--local",
    "--weights",
    "none",
    "--freeze",
    "none",
    "--epochs",
    "1",
    "--image-size",
    "32",
    "--batch-size",
    "64",
    "--tune",
    "--learning-rate",
    "5e-4",
]
"""Flags with which the demo takes seconds in one process."""
DEMO_COMMAND = [sys.executable, str(GRID_PROGRAM), "demo", "--no-early-stopping"]
SMALL_FLAGS = ["--weights", "none", "--image-size", "32", "--freeze", "none", "--batch-size", "32"]
SMALL_FLAGS += ["--tune", "--learning-rate", "5e-4"]
"""Flags that leave one small configuration of the demo's grid."""

BASE_TRIAL = TrialConfig(
    data="phantom",
    model="resnext_tiny",
    weights="none",
    image_size=32,
    epochs=3,
    learning_rate=1e-3,
    precision="float32",
)
LENIENT_ALPHA = 0.5
"""A level at which the few images of a test suffice to stop whatever is behind."""
STOPPING_RATES = (1e-3, 3e-3, 1e-9, 2e-9, 3e-9)


def run_grid_program(*flags: object) -> int:
    """Run experiments/grid.py in this process; return its exit code."""
    try:
        return main.run_grid(GRID_PROGRAM, [str(flag) for flag in flags])
    except SystemExit as end:
        return int(end.code or 0)


def grid_experiment(early_stopping: EarlyStopping | None = None, **fields) -> Experiment:
    """Return a grid around BASE_TRIAL: a tuple is an axis, any other value replaces the field."""
    axes = {name: value for name, value in fields.items() if isinstance(value, tuple)}
    fixed = {name: value for name, value in fields.items() if name not in axes}
    base = dataclasses.replace(BASE_TRIAL, **fixed)
    return Experiment(name=toys.Name("grid"), base=base, axes=axes, early_stopping=early_stopping)


def stopping_experiment(rates: tuple[float, ...] = STOPPING_RATES, **fields) -> Experiment:
    """Return a grid of learning rates of which early stopping stops some."""
    base = dataclasses.replace(
        TrialConfig(
            model="resnext_tiny",
            weights="none",
            image_size=32,
            batch_size=64,
            epochs=4,
            precision="float32",
        ),
        **fields,
    )
    return Experiment(
        name="stopping",
        base=base,
        axes={"learning_rate": rates},
        early_stopping=EarlyStopping(grace_period=1, alpha=LENIENT_ALPHA),
    )


def stop_reason(rung: int) -> StopReason:
    """Return why a trial was stopped at a rung."""
    return StopReason(
        stopped_at_rung=rung,
        rung_metric="val_score",
        rung_score=0.5,
        lost_to="0123456789ab",
        lost_to_score=0.75,
        lost_to_epochs=rung,
        lost_images=9,
        won_images=1,
        lost_p=0.01,
    )


def run_experiment(
    experiment: Experiment,
    folder: Path,
    console: io.StringIO | None = None,
    exit_code: int = 0,
    **options,
) -> Results:
    """Run an experiment, without a report, and check the exit code; `console` gets the output."""
    run_options = RunOptions(out=str(folder), **{"report": False, **options})
    printed = Console(file=console or io.StringIO())
    assert runner.run_experiment(experiment, run_options, printed) == exit_code
    return read_results(folder)
