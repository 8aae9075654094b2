"""The nine tables of the report of 2023, each as the flags of one command."""

import dataclasses
from dataclasses import dataclass

from bioimg.report.architecture import architecture_table
from bioimg.report.comparison_table import REPORT_2023_COLUMNS, build_comparison
from bioimg.report.notices import make_notice
from bioimg.report.row_filter import select_rows
from bioimg.report.table_model import Table
from bioimg.report.table_notes import format_list
from bioimg.results.result_store import Results

BRIEF_COLUMNS = (
    "weights",
    "batch_size",
    "freeze",
    "epochs",
    "best_val_loss",
    "best_val_accuracy",
    "test_accuracy",
    "train_seconds",
)
TABLE_9_COLUMNS = (
    "weights",
    "batch_size",
    "freeze",
    "epochs",
    "best_val_loss",
    "test_accuracy",
    "best_val_accuracy",
)
V1_WEIGHTS, V2_WEIGHTS = 'weights == "IMAGENET1K_V1"', 'weights == "IMAGENET1K_V2"'
ALL_LAYERS_TRAINED, HEAD_ONLY_TRAINED = 'freeze == "none"', 'freeze == "features"'


@dataclass(frozen=True)
class TablePreset:
    """`--rows` and `--columns` of a table. epochs: the length of its runs; ignored if a folder has none of this length."""

    rows: str
    epochs: tuple[int, ...]
    columns: tuple[str, ...] = REPORT_2023_COLUMNS

    @property
    def condition(self) -> str:
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
        f"batch_size == 128 and {ALL_LAYERS_TRAINED} or {V2_WEIGHTS} and batch_size == 32 and {ALL_LAYERS_TRAINED}"
        f" or {V1_WEIGHTS} and batch_size == 128 and {HEAD_ONLY_TRAINED}",
        (40, 50, 100),
        TABLE_9_COLUMNS,
    ),
}


def report_2023_tables(results: Results, lang: str = "en") -> list[Table]:
    """Tables 1 to 9, named `table-N`."""
    first = dataclasses.replace(architecture_table(results, lang), name="table-1")
    return [
        first,
        *(
            _preset_table(results, number, recipe, lang)
            for number, recipe in REPORT_2023_PRESETS.items()
        ),
    ]


def _preset_table(results: Results, number: int, recipe: TablePreset, lang: str) -> Table:
    exact = not select_rows(results.trials, recipe.condition).empty
    rows = recipe.condition if exact else recipe.rows
    table = build_comparison(results, rows=rows, columns=recipe.columns, lang=lang)
    said = (
        ()
        if exact
        else (make_notice("note.other_epochs", lang, epochs=format_list(recipe.epochs)),)
    )
    return dataclasses.replace(table, name=f"table-{number}", notices=(*said, *table.notices))
