"""The command `bioimg verify`. It imports what it needs when it runs, so that its help is instant."""

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
    """Check a table (.md, .tex, .csv, .docx, .xlsx), edited by hand or not, against the results; list cells that disagree."""

    file: Annotated[Path, Positional, arg(metavar="TABLE")]
    """the file with the table"""
    results: str | None = None
    """the results folder; by default the one that the file is in"""

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
    file: Path, verdict: "VerificationResult", console: Console | None = None
) -> None:
    """Print every cell that disagrees, and what wasn't compared."""
    console = console or Console(highlight=False)
    for finding in verdict.mismatches:
        console.print(Text(str(finding)), style="red", soft_wrap=True)
    if verdict.unknown_headers:
        console.print(
            Text(
                f"Not compared, since their headers aren't known: {', '.join(verdict.unknown_headers)}."
            ),
            style="yellow",
        )
    if verdict.foreign_digest:
        console.print(
            Text(f"The file says that it was made from other results ({verdict.foreign_digest})."),
            style="yellow",
        )
    count = len(verdict.mismatches)
    word = "all agree" if not count else f"{count} disagree{'s' if count == 1 else ''}"
    console.print(
        Text(f"{file}: {verdict.compared_cells} cells compared, {word} with the results."),
        style="bold",
    )
