"""The command `bioimg compare`, which is also the program `experiments/grid.py`."""

import functools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from bioimg.cli.grid_flags import parse_experiment_flags
from bioimg.data.sources import NAMED_DATASETS
from bioimg.experiment_files import (
    DEFAULT_EXPERIMENT,
    adapt_to_images,
    find_experiment_files,
    load_experiment_file,
)


@dataclass(frozen=True)
class CompareCommand:
    """Compare recipes: every combination of settings is trained, tested and listed in one table.

    Runs the demo, another EXPERIMENT or the demo's question on your images: `bioimg compare DATA`.
    """


def compare_recipes(program: str, folder: Path, args: Sequence[str]) -> int:
    """Run an experiment and print its table. Return the exit code.

    program: the command as the user writes it, for the help.
    folder:  the folder of the experiments.
    args:    the name of an experiment or images, which may be left out, and flags.

    Raises:
        UserError: something that the user can fix.
    """
    name, flags = _split_arguments(folder, args)
    experiment, question = load_experiment_file(folder, name or DEFAULT_EXPERIMENT)
    parse = functools.partial(
        parse_experiment_flags,
        program=f"{program} [EXPERIMENT|DATA]",
        description=f"{question}\n{_list_experiments(folder)}",
    )
    changed, options = parse(experiment, flags)
    if name is None and changed.base.data != experiment.base.data:
        # parsed again, since another split may have been named
        experiment = adapt_to_images(experiment, changed.base.data)
        changed, options = parse(experiment, flags)
    # imported late, so that --help and a mistyped value don't wait for torch
    from bioimg.runner import run_experiment

    return run_experiment(changed, options, Console(file=sys.stdout))


def _split_arguments(folder: Path, args: Sequence[str]) -> tuple[str | None, list[str]]:
    """Return the experiment's name, if given, and the flags; images become the flag --data."""
    if not args or args[0].startswith("-"):
        return None, list(args)
    first, *flags = args
    if first not in find_experiment_files(folder) and _names_images(first):
        return None, ["--data", first, *flags]
    return first, flags


def _names_images(text: str) -> bool:
    is_path = any(separator in text for separator in "/\\:")
    return is_path or text in NAMED_DATASETS or Path(text).expanduser().exists()


def _list_experiments(folder: Path) -> str:
    lines = ["Experiments (an experiment wins over a folder with its name; write ./NAME for that):"]
    for name in find_experiment_files(folder):
        _, question = load_experiment_file(folder, name)
        lines.append(f"    {name:8} {question.strip().splitlines()[0]}")
    return "\n".join(lines)
