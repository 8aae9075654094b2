"""Make the nine tables of the report of 2023: the flag `--preset report-2023`."""

import dataclasses
from dataclasses import dataclass

from bioimg.report.analysis import Analysis
from bioimg.report.architecture import architecture_table
from bioimg.report.checks import note
from bioimg.report.comparison_table import REPORT_2023_COLUMNS, build_comparison
from bioimg.report.row_filter import select_rows
from bioimg.report.table_model import Table

OMITTED_COLUMNS = ("final_train_loss", "best_train_accuracy", "final_val_accuracy")
BRIEF_COLUMNS = tuple(name for name in REPORT_2023_COLUMNS if name not in OMITTED_COLUMNS)
TABLE_9_COLUMNS = (
    "weights",
    "batch_size",
    "freeze",
    "epochs",
    "best_val_loss",
    "test_accuracy",
    "best_val_accuracy",
)
V1_WEIGHTS = 'weights == "IMAGENET1K_V1"'
V2_WEIGHTS = 'weights == "IMAGENET1K_V2"'
ALL_LAYERS_TRAINED = 'freeze == "none"'
HEAD_ONLY_TRAINED = 'freeze == "features"'


@dataclass(frozen=True)
class TablePreset:
    """The flags `--rows` and `--columns` of one table.

    rows:    a condition on the settings.
    epochs:  the length of its runs; ignored if a folder has none of this length.
    columns: the columns to show.
    """

    rows: str
    epochs: tuple[int, ...]
    columns: tuple[str, ...] = REPORT_2023_COLUMNS

    @property
    def condition(self) -> str:
        """The condition with the length of the runs."""
        return f"({self.rows}) and epochs in {list(self.epochs)}"


REPORT_2023_PRESETS = {
    2: TablePreset(f"{V1_WEIGHTS} and batch_size == 32 and {ALL_LAYERS_TRAINED}", (50,)),
    3: TablePreset(f"{V1_WEIGHTS} and batch_size == 64 and {ALL_LAYERS_TRAINED}", (35,)),
    4: TablePreset(
        f"{V1_WEIGHTS} and batch_size == 128 and {ALL_LAYERS_TRAINED}", (50,), BRIEF_COLUMNS
    ),
    5: TablePreset(f"{V2_WEIGHTS} and batch_size == 128 and {ALL_LAYERS_TRAINED}", (40,)),
    6: TablePreset(
        f"{V2_WEIGHTS} and batch_size == 32 and {ALL_LAYERS_TRAINED}", (40, 60), BRIEF_COLUMNS
    ),
    7: TablePreset(f"{V2_WEIGHTS} and batch_size == 128 and {HEAD_ONLY_TRAINED}", (40,)),
    8: TablePreset(f"batch_size == 128 and {HEAD_ONLY_TRAINED}", (100,), BRIEF_COLUMNS),
    9: TablePreset(
        f"batch_size == 128 and {ALL_LAYERS_TRAINED}"
        f" or {V2_WEIGHTS} and batch_size == 32 and {ALL_LAYERS_TRAINED}"
        f" or {V1_WEIGHTS} and batch_size == 128 and {HEAD_ONLY_TRAINED}",
        (40, 50, 100),
        TABLE_9_COLUMNS,
    ),
}


def report_2023_tables(analysis: Analysis, lang: str = "en") -> list[Table]:
    """Build tables 1 to 9, named `table-N`."""
    tables = [dataclasses.replace(architecture_table(analysis, lang), name="table-1")]
    for number, preset in REPORT_2023_PRESETS.items():
        table = _preset_table(analysis, preset, lang)
        tables.append(dataclasses.replace(table, name=f"table-{number}"))
    return tables


def _preset_table(analysis: Analysis, preset: TablePreset, lang: str) -> Table:
    """Build a table from runs of the length in the report or, if there are none, of any length."""
    if not select_rows(analysis.trials, preset.condition).empty:
        return build_comparison(analysis, rows=preset.condition, columns=preset.columns, lang=lang)
    table = build_comparison(analysis, rows=preset.rows, columns=preset.columns, lang=lang)
    other_epochs = note("other_epochs", epochs=list(preset.epochs))
    return dataclasses.replace(table, checks=(other_epochs, *table.checks))
