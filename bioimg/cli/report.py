"""The command `bioimg report`."""

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional, arg

from bioimg.errors import UserError
from bioimg.prediction.explanations import explain_mistakes
from bioimg.report.write import ReportOptions, write_report


@dataclass(frozen=True, kw_only=True)
class ReportCommand(ReportOptions):
    """Make a page and tables from a results folder, and show which differences hold.

    Without flags, the page and the comparison table are written to RESULTS/report.
    With --rows, --columns, --sort, --group-by or --single, only that table is made, as `selection`.
    """

    folder: Annotated[str, Positional, arg(metavar="RESULTS")]
    """Results folder, such as results/grid or s3://bucket/grid"""
    explain: bool = False
    """Show on the page where the model finds its worst mistakes (Grad-CAM); reads weights and
    images"""

    def run(self) -> int:
        """Write and print the report. Return the exit code.

        Raises:
            UserError: there are no results, or a flag names something that doesn't exist.
        """
        images = overlays = None
        if self.explain:
            if self.has_own_tables:
                raise UserError(
                    "the value of `explain` is True, but must be False where rows, columns, sort, "
                    "group_by, single or at_epoch choose a table, since no page is made then."
                )
            images, overlays = explain_mistakes(self.folder)
        write_report(self.folder, self, images, overlays)
        return 0
