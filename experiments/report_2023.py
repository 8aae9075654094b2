"""The nine tables of the report of 2023 that this project grew out of, made from results.

    python experiments/report_2023.py RESULTS

The results are those of the grid in report.py. Tables of one run length that no trial has show the
trials of other lengths instead. The files table-1 to table-9 are written to RESULTS/report, as
Markdown, Word and LaTeX.
"""

import dataclasses
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from bioimg.errors import UserError
from bioimg.report import documents
from bioimg.report.analysis import Analysis
from bioimg.report.architecture import architecture_table
from bioimg.report.comparison_table import build_comparison
from bioimg.report.open_results import open_results
from bioimg.report.report_context import ReportContext
from bioimg.report.row_filter import select_rows
from bioimg.report.table_model import Table
from bioimg.report.terminal import print_table

SETTINGS = ("weights", "batch_size", "freeze", "epochs")
BRIEF_COLUMNS = (*SETTINGS, "best_val_loss", "best_val_accuracy", "test_accuracy", "train_seconds")
ALL_COLUMNS = (
    *SETTINGS,
    "final_train_loss",
    "best_train_accuracy",
    "best_val_loss",
    "final_val_accuracy",
    "best_val_accuracy",
    "test_accuracy",
    "train_seconds",
)
TABLE_9_COLUMNS = (*SETTINGS, "best_val_loss", "test_accuracy", "best_val_accuracy")
V1 = 'weights == "IMAGENET1K_V1"'
V2 = 'weights == "IMAGENET1K_V2"'
TRAINED = 'freeze == "none"'
FROZEN = 'freeze == "features"'
FORMATS = ("md", "docx", "tex")


@dataclass(frozen=True)
class TrialTable:
    """The rows and columns of one table, as `bioimg report --rows ... --columns ...` takes them.

    epochs: the lengths of its runs, if there are any of these lengths.
    """

    rows: str
    epochs: tuple[int, ...]
    columns: tuple[str, ...] = ALL_COLUMNS

    def build(self, analysis: Analysis) -> Table:
        """Build the table."""
        rows = f"({self.rows}) and epochs in {list(self.epochs)}"
        if select_rows(analysis.trials, rows).empty:
            rows = self.rows
        return build_comparison(analysis, rows=rows, columns=self.columns)


TRIAL_TABLES = {
    2: TrialTable(f"{V1} and batch_size == 32 and {TRAINED}", (50,)),
    3: TrialTable(f"{V1} and batch_size == 64 and {TRAINED}", (35,)),
    4: TrialTable(f"{V1} and batch_size == 128 and {TRAINED}", (50,), BRIEF_COLUMNS),
    5: TrialTable(f"{V2} and batch_size == 128 and {TRAINED}", (40,)),
    6: TrialTable(f"{V2} and batch_size == 32 and {TRAINED}", (40, 60), BRIEF_COLUMNS),
    7: TrialTable(f"{V2} and batch_size == 128 and {FROZEN}", (40,)),
    8: TrialTable(f"batch_size == 128 and {FROZEN}", (100,), BRIEF_COLUMNS),
    9: TrialTable(
        f"batch_size == 128 and {TRAINED}"
        f" or {V2} and batch_size == 32 and {TRAINED}"
        f" or {V1} and batch_size == 128 and {FROZEN}",
        (40, 50, 100),
        TABLE_9_COLUMNS,
    ),
}


def build_tables(analysis: Analysis) -> Iterator[Table]:
    """Yield tables 1 to 9, named `table-N`. The first is of the model, the others of trials."""
    yield dataclasses.replace(architecture_table(analysis), name="table-1")
    for number, trial_table in TRIAL_TABLES.items():
        yield dataclasses.replace(trial_table.build(analysis), name=f"table-{number}")


def main() -> int:
    """Write and print the tables of the results that the command names. Return the exit code."""
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    folder = sys.argv[1]
    try:
        analysis = Analysis(open_results(folder))
        for table in build_tables(analysis):
            documents.write_table(table, Path(folder) / "report", FORMATS)
            print_table(ReportContext(analysis), table, Console(highlight=False))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
