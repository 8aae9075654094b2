"""The command `bioimg report`."""

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional, arg

from bioimg.report.write import ReportOptions, write_report


@dataclass(frozen=True, kw_only=True)
class ReportCommand(ReportOptions):
    """Make a page and tables from a results folder, and show which differences hold.

    Without flags, the page and the comparison table are written to RESULTS/report.
    With --rows, --columns, --sort, --group-by or --single, only that table is made, as `selection`.
    """

    folder: Annotated[str, Positional, arg(metavar="RESULTS")]
    """Results folder, such as results/grid or s3://bucket/grid"""

    def run(self) -> int:
        """Write and print the report. Return the exit code.

        Raises:
            UserError: there are no results, or a flag names something that doesn't exist.
        """
        write_report(self.folder, self)
        return 0
