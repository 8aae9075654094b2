"""The nine tables of the report of 2023, each as the flags of one command."""

import dataclasses
from dataclasses import dataclass

from bioimg.report.architecture import architecture
from bioimg.report.captions import text
from bioimg.report.notes import listed
from bioimg.report.rows import select
from bioimg.report.table import Table
from bioimg.report.tables import COLUMNS, comparison
from bioimg.results.store import Results

BRIEF = ("weights", "batch_size", "freeze", "epochs", "best_val_loss", "best_val_accuracy", "test_accuracy", "train_seconds")
COMPARED = ("weights", "batch_size", "freeze", "epochs", "best_val_loss", "test_accuracy", "best_val_accuracy")
V1, V2 = 'weights == "IMAGENET1K_V1"', 'weights == "IMAGENET1K_V2"'
TRAINED, FROZEN = 'freeze == "none"', 'freeze == "features"'


@dataclass(frozen=True)
class Recipe:
    """`--rows` and `--columns` of a table. epochs: the length of its runs; ignored if a folder has none of this length."""

    rows: str
    epochs: tuple[int, ...]
    columns: tuple[str, ...] = COLUMNS

    @property
    def condition(self) -> str:
        return f"({self.rows}) and epochs in {list(self.epochs)}"


REPORT_2023 = {
    2: Recipe(f"{V1} and batch_size == 32 and {TRAINED}", (50,)),
    3: Recipe(f"{V1} and batch_size == 64 and {TRAINED}", (35,)),
    4: Recipe(f"{V1} and batch_size == 128 and {TRAINED}", (50,), BRIEF),
    5: Recipe(f"{V2} and batch_size == 128 and {TRAINED}", (40,)),
    6: Recipe(f"{V2} and batch_size == 32 and {TRAINED}", (40, 60), BRIEF),
    7: Recipe(f"{V2} and batch_size == 128 and {FROZEN}", (40,)),
    8: Recipe(f"batch_size == 128 and {FROZEN}", (100,), BRIEF),
    9: Recipe(
        f"batch_size == 128 and {TRAINED} or {V2} and batch_size == 32 and {TRAINED}"
        f" or {V1} and batch_size == 128 and {FROZEN}",
        (40, 50, 100),
        COMPARED,
    ),
}


def report_2023(results: Results, lang: str = "en") -> list[Table]:
    """Tables 1 to 9, named `table-N`."""
    first = dataclasses.replace(architecture(results, lang), name="table-1")
    return [first, *(_table(results, number, recipe, lang) for number, recipe in REPORT_2023.items())]


def _table(results: Results, number: int, recipe: Recipe, lang: str) -> Table:
    exact = not select(results.trials, recipe.condition).empty
    rows = recipe.condition if exact else recipe.rows
    table = comparison(results, rows=rows, columns=recipe.columns, lang=lang)
    said = () if exact else (text("other_epochs", lang, epochs=listed(recipe.epochs)),)
    return dataclasses.replace(table, name=f"table-{number}", notes=(*said, *table.notes))
