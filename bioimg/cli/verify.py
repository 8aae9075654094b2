"""The command `bioimg verify`. Most imports happen when it runs, so that its help is instant."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from rich.console import Console
from rich.text import Text
from tyro.conf import Positional, arg

from bioimg.report.open_results import find_results_folder, open_results

if TYPE_CHECKING:
    from bioimg.verify.verify import VerificationResult


@dataclass(frozen=True, kw_only=True)
class VerifyCommand:
    """Check a table against the results, and list the cells that disagree.

    The table may be a .md, .tex, .csv, .docx or .xlsx file, edited by hand or not.
    """

    file: Annotated[Path, Positional, arg(metavar="TABLE")]
    """File with the table"""
    results: str | None = None
    """Results folder; by default the one that the file is in"""

    def run(self) -> int:
        """Print the cells that disagree. Return 1 if any does, else 0.

        Raises:
            UserError: there is no such file, no table in it, or no results.
        """
        from bioimg.report import documents
        from bioimg.verify.verify import verify_file

        documents.require_readable(self.file)  # before results are looked for above it
        results = open_results(self.results or find_results_folder(self.file))
        verification = verify_file(self.file, results)
        print_verification(self.file, verification)
        return int(bool(verification.mismatches))


def print_verification(
    file: Path, verification: "VerificationResult", console: Console | None = None
) -> None:
    """Print every cell that disagrees, and what wasn't compared."""
    console = console or Console(highlight=False)
    for mismatch in verification.mismatches:
        console.print(Text(str(mismatch)), style="red", soft_wrap=True)
    if verification.unknown_headers:
        headers = ", ".join(verification.unknown_headers)
        message = f"Not compared, since their headers aren't known: {headers}."
        console.print(Text(message), style="yellow")
    if verification.foreign_digest:
        message = (
            f"The file says that it was made from other results ({verification.foreign_digest})."
        )
        console.print(Text(message), style="yellow")
    count = len(verification.mismatches)
    outcome = f"{count} disagree{'s' if count == 1 else ''}" if count else "all agree"
    message = f"{file}: {verification.compared_cells} cells compared, {outcome} with the results."
    console.print(Text(message), style="bold")
