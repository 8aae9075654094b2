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

from bioimg import flags
from bioimg.cluster.command import Doctor
from bioimg.config import UserError, unknown
from bioimg.data.cache_command import CacheCommand
from bioimg.data.command import DataCommand
from bioimg.data.listing import visible
from bioimg.experiment import Experiment
from bioimg.predict import Predict
from bioimg.progress import say
from bioimg.report.command import Report, Verify
from bioimg.status import Status

GAVE_UP = 2
GOES_ON = "Interrupted. Finished trials are saved; run the same command again to resume."
BEGINS_ANEW = "Interrupted. Run the same command again to start over."


def main() -> int:
    """The `bioimg` command; returns the exit code."""
    commands = {
        "data": DataCommand,
        "report": Report,
        "verify": Verify,
        "status": Status,
        "predict": Predict,
        "doctor": Doctor,
        "cache": CacheCommand,
    }
    return _told(lambda: tyro.extras.subcommand_cli_from_dict(commands, prog="bioimg").run(), BEGINS_ANEW)


def grid(program: Path, args: Sequence[str]) -> int:
    """Run the experiment that the first argument names (`demo` if none is) and print its table; returns the exit code."""
    return _told(lambda: _grid(program, args), GOES_ON)


def leave(code: int) -> NoReturn:
    """End this process with a program's exit code. One that gave up doesn't shut Ray down: where parts of Ray are lost, that
    crashes or changes the code. Ray's processes notice that the program is gone, and end.
    """
    if code == GAVE_UP:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def load(folder: Path, name: str) -> tuple[Experiment, str]:
    """The experiment of a file in a folder, and its docstring.

    Raises:
        UserError: there is no such experiment.
    """
    files = {path.stem: path for path in sorted(folder.glob("*.py")) if "\nEXPERIMENT = " in path.read_text(encoding="utf-8")}
    if name not in files:
        raise unknown("experiment", name, files, f"An experiment is a file in {folder}.")
    module = runpy.run_path(str(files[name]))
    return module["EXPERIMENT"], module["__doc__"] or ""


def _grid(program: Path, args: Sequence[str]) -> int:
    named = bool(args) and not args[0].startswith("-")
    experiment, question = load(program.parent, args[0] if named else "demo")
    rest = args[1:] if named else args
    experiment, settings = flags.parse(experiment, rest, program=f"{program.name} [EXPERIMENT]", description=question)
    if not named and experiment.base.data != "phantom":
        experiment = dataclasses.replace(experiment, name=_name(experiment.base.data))
    from bioimg.runner import run  # late, so that --help and a mistyped value don't wait for torch

    return run(experiment, settings, Console(file=sys.stdout))


def _name(data: str) -> str:
    """The name of a set of images. A dot is part of a folder's name; `.` and `..` get the name of the folder they stand for."""
    place = Path(data).expanduser()
    if not place.is_dir():
        return place.stem
    return place.resolve().name if place.name in ("", "..") else place.name


def _told(program: Callable[[], int], interrupted: str) -> int:
    """Run a program. Errors that the user can fix are shown without a traceback, and an interruption with what to do next."""
    try:
        return program()
    except UserError as error:
        say(Console(stderr=True), f"error: {visible(str(error))}", style="bold red")
        return GAVE_UP
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return 130
