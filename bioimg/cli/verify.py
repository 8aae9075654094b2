"""The command `bioimg verify`. Most imports happen when it runs, so that its help is instant."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from rich.console import Console
from rich.text import Text
from tyro.conf import Positional, arg

from bioimg.report.open_results import find_results_folder, open_results
from bioimg.text import replace_controls

if TYPE_CHECKING:
    from bioimg.verify.verify import Verification

MAX_PRINTED_FINDINGS = 50


@dataclass(frozen=True, kw_only=True)
class VerifyCommand:
    """Check a table against the results, and list what it says, hides or lacks.

    The table may be a .md, .tex, .csv, .docx or .xlsx file, edited by hand or not.

    Errors are: numbers and words that aren't those of the results, in cells, caption and notes;
    rows, intervals, warnings or the fingerprint of the results that are missing; hidden text.
    Another order, fewer decimals, headers in another language and further notes are allowed.

    The exit code is 0 if all agrees, 1 if there is an error, and 2 if the file or the results can't
    be read. What wasn't compared is a note, which doesn't change the exit code.
    """

    file: Annotated[Path, Positional, arg(metavar="TABLE")]
    """File with the table"""
    results: str | None = None
    """Results folder; by default the one that the file is in"""

    def run(self) -> int:
        """Print what was found. Return 1 if there is an error, else 0.

        Raises:
            UserError: there is no such file, no table in it, or no results.
        """
        from bioimg.report.analysis import Analysis
        from bioimg.verify.readers import require_readable
        from bioimg.verify.verify import verify_file

        require_readable(self.file)  # before results are looked for above it
        results = open_results(self.results or find_results_folder(self.file))
        verification = verify_file(self.file, Analysis(results))
        print_verification(self.file, verification)
        return int(bool(verification.errors))


def print_verification(
    file: Path, verification: "Verification", console: Console | None = None
) -> None:
    """Print every finding on a line, errors first, and a summary."""
    console = console or Console(highlight=False)
    for findings, style in ((verification.errors, "red"), (verification.notes, "yellow")):
        for finding in findings[:MAX_PRINTED_FINDINGS]:
            console.print(Text(replace_controls(finding.text)), style=style, soft_wrap=True)
        if len(findings) > MAX_PRINTED_FINDINGS:
            more = len(findings) - MAX_PRINTED_FINDINGS
            console.print(Text(f"... and {more} more"), style=style)
    count = len(verification.errors)
    outcome = f"{count} error{'s' if count > 1 else ''}" if count else "all agree with the results"
    message = f"{file}: {verification.compared_cells} cells compared, {outcome}."
    console.print(Text(message), style="bold")
