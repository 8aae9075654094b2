"""The programs: `experiments/grid.py` and the `bioimg` command."""

import dataclasses
import os
import runpy
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import tyro
from rich.console import Console

from bioimg.cli import grid_flags
from bioimg.cli.cache import CacheCommand
from bioimg.cli.data import DataCommand
from bioimg.cli.doctor import Doctor
from bioimg.cli.predict import PredictCommand
from bioimg.cli.report import ReportCommand
from bioimg.cli.status import StatusCommand
from bioimg.cli.verify import VerifyCommand
from bioimg.errors import UserError, unknown_value_error
from bioimg.experiment import Experiment
from bioimg.progress.console import print_plain
from bioimg.text import replace_controls

EXIT_ABORTED = 2
RESUME_HINT = "Interrupted. Finished trials are saved; run the same command again to resume."
RESTART_HINT = "Interrupted. Run the same command again to start over."


def main() -> int:
    """The `bioimg` command; returns the exit code."""
    commands = {
        "data": DataCommand,
        "report": ReportCommand,
        "verify": VerifyCommand,
        "status": StatusCommand,
        "predict": PredictCommand,
        "doctor": Doctor,
        "cache": CacheCommand,
    }
    return _run_reporting_errors(
        lambda: tyro.extras.subcommand_cli_from_dict(commands, prog="bioimg").run(), RESTART_HINT
    )


def run_grid(program: Path, args: Sequence[str]) -> int:
    """Run the experiment that the first argument names (`demo` if none is) and print its table; returns the exit code."""
    return _run_reporting_errors(lambda: _run_named_experiment(program, args), RESUME_HINT)


def exit_process(code: int) -> NoReturn:
    """End this process with a program's exit code. One that gave up doesn't shut Ray down: where parts of Ray are lost, that
    crashes or changes the code. Ray's processes notice that the program is gone, and end.
    """
    if code == EXIT_ABORTED:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def load_experiment_file(folder: Path, name: str) -> tuple[Experiment, str]:
    """The experiment of a file in a folder, and its docstring.

    Raises:
        UserError: there is no such experiment.
    """
    files = {
        path.stem: path
        for path in sorted(folder.glob("*.py"))
        if "\nEXPERIMENT = " in path.read_text(encoding="utf-8")
    }
    if name not in files:
        raise unknown_value_error(
            "experiment", name, files, f"An experiment is a file in {folder}."
        )
    module = runpy.run_path(str(files[name]))
    return module["EXPERIMENT"], module["__doc__"] or ""


def _run_named_experiment(program: Path, args: Sequence[str]) -> int:
    named = bool(args) and not args[0].startswith("-")
    experiment, question = load_experiment_file(program.parent, args[0] if named else "demo")
    rest = args[1:] if named else args
    experiment, settings = grid_flags.parse_experiment_flags(
        experiment, rest, program=f"{program.name} [EXPERIMENT]", description=question
    )
    if not named and experiment.base.data != "phantom":
        experiment = dataclasses.replace(experiment, name=_image_set_name(experiment.base.data))
    # late, so that --help and a mistyped value don't wait for torch
    from bioimg.runner import run_experiment

    return run_experiment(experiment, settings, Console(file=sys.stdout))


def _image_set_name(data: str) -> str:
    """The name of a set of images. A dot is part of a folder's name; `.` and `..` get the name of the folder they stand for."""
    place = Path(data).expanduser()
    if not place.is_dir():
        return place.stem
    return place.resolve().name if place.name in ("", "..") else place.name


def _run_reporting_errors(program: Callable[[], int], interrupted: str) -> int:
    """Run a program. Errors that the user can fix are shown without a traceback, and an interruption with what to do next."""
    try:
        return program()
    except UserError as error:
        print_plain(
            Console(stderr=True), f"error: {replace_controls(str(error))}", style="bold red"
        )
        return EXIT_ABORTED
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return 130
