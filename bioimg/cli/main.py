"""The programs: the `bioimg` command and `experiments/grid.py`."""

import contextlib
import importlib.metadata
import io
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import tyro
from rich.console import Console

from bioimg.cli.cache import CacheCommand
from bioimg.cli.compare import CompareCommand, compare_recipes
from bioimg.cli.data import DataCommand
from bioimg.cli.doctor import Doctor
from bioimg.cli.evaluate import EvaluateCommand
from bioimg.cli.export import ExportCommand
from bioimg.cli.fetch import FetchCommand
from bioimg.cli.help_hints import with_plain_help
from bioimg.cli.predict import PredictCommand
from bioimg.cli.report import ReportCommand
from bioimg.cli.status import StatusCommand
from bioimg.cli.verify import VerifyCommand
from bioimg.errors import UserError
from bioimg.experiment_files import packaged_experiments_folder
from bioimg.progress.console import print_plain
from bioimg.text import replace_controls

COMMANDS = {
    "compare": CompareCommand,
    "data": DataCommand,
    "report": ReportCommand,
    "verify": VerifyCommand,
    "status": StatusCommand,
    "evaluate": EvaluateCommand,
    "predict": PredictCommand,
    "export": ExportCommand,
    "doctor": Doctor,
    "fetch": FetchCommand,
    "cache": CacheCommand,
}
EXIT_ABORTED = 2
EXIT_INTERRUPTED = 130
RESUME_HINT = "Interrupted. Finished trials are saved; run the same command again to resume."
RESUMPTION_HINTS = {
    "evaluate": RESUME_HINT,
    "predict": "Interrupted. Predictions are saved; run the same command again to go on.",
}
RESTART_HINT = "Interrupted. Run the same command again to start over."


def run_bioimg() -> NoReturn:
    """Run the `bioimg` command and end this process."""
    exit_process(main())


def main() -> int:
    """Run the `bioimg` command. Return its exit code."""
    args = sys.argv[1:]
    if args[:1] == ["--version"]:
        print(f"bioimg {importlib.metadata.version('bioimg')}")
        return 0
    if args[:1] == ["compare"]:
        folder = packaged_experiments_folder()
        return _run_reporting_errors(
            lambda: compare_recipes("bioimg compare", folder, args[1:]), RESUME_HINT
        )
    hint = RESUMPTION_HINTS.get(args[0] if args else "", RESTART_HINT)
    return _run_reporting_errors(lambda: _run_subcommand(args), hint)


def run_grid(program: Path, args: Sequence[str]) -> int:
    """Run `experiments/grid.py`, the same program as `bioimg compare`. Return its exit code."""
    folder = _experiments_beside(program)
    return _run_reporting_errors(lambda: compare_recipes(program.name, folder, args), RESUME_HINT)


def exit_process(code: int) -> NoReturn:
    """End this process with a program's exit code, without shutting Ray down.

    That takes seconds, and where parts of Ray are lost, it crashes or changes the code. Ray's
    processes notice that the program is gone, and end.
    """
    with contextlib.suppress(BrokenPipeError):  # as with `| head`
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _experiments_beside(program: Path) -> Path:
    """Return the folder of experiments for `grid.py`.

    `ray submit` copies that file alone to the head, where `ray up` has put the others.
    """
    if program.with_name("demo.py").exists():
        return program.parent
    return Path("~/bioimg/experiments").expanduser()


def _run_subcommand(args: Sequence[str]) -> int:
    commands = {name: with_plain_help(command) for name, command in COMMANDS.items()}
    command = tyro.extras.subcommand_cli_from_dict(
        commands,
        prog="bioimg",
        description="Which transfer-learning recipe works best on these images?",
        args=list(args),
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    return command.run()


def _run_reporting_errors(program: Callable[[], int], interruption_hint: str) -> int:
    """Run a program. Errors that the user can fix are shown without a traceback."""
    for stream in (sys.stdout, sys.stderr):
        # names may have letters that the terminal's encoding lacks; a notebook's stream has none
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        return program()
    except UserError as error:
        text = f"error: {replace_controls(str(error))}"
        print_plain(Console(stderr=True), text, style="bold red")
        return EXIT_ABORTED
    except KeyboardInterrupt:
        print(interruption_hint, file=sys.stderr)
        return EXIT_INTERRUPTED
