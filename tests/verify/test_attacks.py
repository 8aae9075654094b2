"""`bioimg verify` catches wrong tables of many kinds, and lets honest edits pass.

Each kind is a small function that edits a file of the report as a person would. The kinds that any
format can have run in one format here, and in all of them every night.
"""

import csv
import datetime
import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
from docx.oxml import parse_xml
from docx.oxml.ns import nsdecls, qn
from docx.shared import Pt, RGBColor
from openpyxl.formatting.rule import Rule
from openpyxl.styles import Font
from openpyxl.styles.differential import DifferentialStyle
from openpyxl.styles.numbers import NumberFormat

from bioimg.config import TrialConfig
from bioimg.errors import UserError
from bioimg.report import detail_tables, documents
from bioimg.report.analysis import Analysis
from bioimg.report.comparison_table import build_comparison
from bioimg.report.table_model import Table
from bioimg.report.translation import LANGUAGES, column_header, translate
from bioimg.verify.verify import Verification, verify_file
from support.edited_tables import EDITORS, EditedExcel, EditedTable, EditedWord, open_table
from support.example_results import (
    epoch_rows,
    prediction_rows,
    read_analysis,
    trial_row,
    write_results,
    write_simulated_results,
)

FORMATS = tuple(EDITORS)
CONDITION = "freeze == 'none'"
BEST, TIE, BETTER, WORSE = (
    translate(f"verdict.{verdict}", "en")
    for verdict in ("best", "tie", "better_models", "worse_models")
)
VERDICT = "verdict"
COLUMNS = (
    *("weights", "freeze", "batch_size", "epochs", "final_train_loss", "best_train_accuracy"),
    *("best_val_loss", "final_val_accuracy", "best_val_accuracy", "test_accuracy"),
    *("train_seconds", "status", VERDICT),
)

SCORES = ("weights", "freeze", "batch_size", "balanced_accuracy", "auroc")


@dataclass(frozen=True)
class Report:
    """Results and the tables that the report makes of them, by a name."""

    analysis: Analysis
    tables: dict[str, Table]


@pytest.fixture(scope="session")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Report]:
    """Twelve recipes of a simulation, four recipes with three seeds, and classes of odd names."""
    folder = tmp_path_factory.mktemp("results")
    grid = read_analysis(write_simulated_results(folder / "grid"))
    seeds = read_analysis(write_seeds(folder / "seeds"))
    odd = read_analysis(write_odd_classes(folder / "odd"))
    return {
        "grid": Report(
            grid,
            {
                "comparison": build_comparison(grid, columns=COLUMNS),
                "where": build_comparison(grid, rows=CONDITION, columns=COLUMNS),
                "means": build_comparison(grid, group_by=["weights"]),
                "per-class": detail_tables.per_class_table(grid),
                "confusion": detail_tables.confusion_table(grid),
                "differences": detail_tables.best_differences_table(grid),
                "effects": detail_tables.effects_table(grid),
                "cost": detail_tables.cost_table(grid, price=2.5),
            },
        ),
        "seeds": Report(
            seeds,
            {"means": build_comparison(seeds), "single": build_comparison(seeds, single=True)},
        ),
        "odd": Report(
            odd,
            {
                "per-class": detail_tables.per_class_table(odd),
                "confusion": detail_tables.confusion_table(odd),
            },
        ),
    }


def write_seeds(folder: Path) -> Path:
    """Write four recipes with three seeds, of which one run failed."""
    rows, epochs, images = [], [], []
    for recipe, batch_size in enumerate((16, 32, 64, 128)):
        for seed in range(3):
            config = TrialConfig(batch_size=batch_size, seed=seed, epochs=3)
            if (recipe, seed) == (3, 2):
                rows.append(trial_row(config, status="failed", error="out of memory"))
                continue
            wrong = range(seed, seed + 2 + 3 * recipe)
            rows.append(
                trial_row(
                    config,
                    test_accuracy=1 - len(wrong) / 60,
                    best_val_loss=0.1 * (recipe + 1) + seed / 100,
                    best_val_accuracy=0.9 - recipe / 50,
                    train_seconds=70.0 + seed,
                    test_images=60,
                )
            )
            epochs += epoch_rows(config.key, [0.5, 0.1, 0.3], [0.7, 0.9, 0.8])
            images += prediction_rows(config.key, wrong, n=60)
    return write_results(folder, rows, epochs, images)


ODD_CLASSES = (
    "NA",
    "None",
    "nan",
    "1e5",
    "-",
    "",
    "3-4",
    "a|b & c",
    "two\nlines",
    "腫瘤，良性",
    "label",
)


def write_odd_classes(folder: Path) -> Path:
    """Write two recipes on classes whose names look like signs, numbers, dates and borders."""
    rows, images = [], []
    for batch_size, wrong in ((16, range(5)), (32, range(3, 20))):
        config = TrialConfig(batch_size=batch_size)
        accuracy = 1 - len(wrong) / 110
        rows.append(
            trial_row(
                config, test_accuracy=accuracy, best_val_loss=0.1 * batch_size, test_images=110
            )
        )
        images += prediction_rows(config.key, wrong, n=110, classes=len(ODD_CLASSES))
    return write_results(folder, rows, predictions=images, classes=ODD_CLASSES)


# How kinds are declared

Edit = Callable[[Any], Any]


@dataclass(frozen=True)
class Kind:
    """A kind of edit, the table that it is made in, and the finding that it must lead to."""

    edit: Edit
    table: str
    code: str = ""
    form: str = ""
    """The format, for a kind that only this format can have."""
    on_text: bool = False
    """Whether the edit gets the text of the file and returns another one."""

    @property
    def name(self) -> str:
        return self.edit.__name__

    def apply(self, reports: dict[str, Report], form: str, folder: Path) -> Verification:
        """Write the table, edit the file, and verify it."""
        results, _, name = self.table.partition("/")
        report = reports[results]
        (path,) = documents.write_table(report.tables[name], folder, [form])
        if self.on_text:
            text = path.read_text(encoding="utf-8-sig")
            changed = self.edit(text)
            assert changed != text
            path.write_text(changed, encoding="utf-8")
        else:
            table = open_table(path)
            self.edit(table)
            table.save()
        return verify_file(path, report.analysis)


ATTACKS: list[Kind] = []
HONEST_EDITS: list[Kind] = []


def attack(
    code: str, table: str = "grid/comparison", form: str = "", on_text: bool = False
) -> Callable[[Edit], Edit]:
    """Register an edit that must be found."""

    def register(edit: Edit) -> Edit:
        ATTACKS.append(Kind(edit, table, code, form, on_text))
        return edit

    return register


def honest(
    table: str = "grid/comparison", form: str = "", on_text: bool = False
) -> Callable[[Edit], Edit]:
    """Register an edit that must pass."""

    def register(edit: Edit) -> Edit:
        HONEST_EDITS.append(Kind(edit, table, form=form, on_text=on_text))
        return edit

    return register


# Numbers


@attack("value")
def one_digit(table: EditedTable) -> None:
    table.change(2, "test_accuracy", r"^\d", "9")


@attack("value")
def moved_decimal_point(table: EditedTable) -> None:
    table.change(2, "final_train_loss", r"0\.", "0.0")


@attack("value")
def cut_instead_of_rounded(table: EditedTable) -> None:
    row = table.find_row(final_train_loss=r"[6-9]$")
    table.change(row, "final_train_loss", r".$", "")


@attack("value", table="grid/differences")
def sign_of_a_difference(table: EditedTable) -> None:
    table.change(1, "difference", r"[-−]", "")


@attack("value")
def numbers_of_two_rows_exchanged(table: EditedTable) -> None:
    table.swap("test_accuracy", 1, 2)


@attack("value")
def settings_of_two_rows_exchanged(table: EditedTable) -> None:
    table.swap("freeze", 1, 2)


@attack("value")
def fractions_instead_of_percentages(table: EditedTable) -> None:
    table.change_column("best_val_accuracy", lambda text: f"{float(text) / 100:.3f}")


@attack("digits")
def zero_for_a_small_loss(table: EditedTable) -> None:
    table.set(1, "final_train_loss", "0")


@attack("digits", form="md")
def power_of_ten(table: EditedTable) -> None:
    table.change_column("best_val_accuracy", lambda text: f"{float(text):.0e}")


@attack("value")
def epoch_of_the_best_loss(table: EditedTable) -> None:
    table.change(1, "best_val_loss", r"\(\d+", "(3")


@attack("value")
def training_time(table: EditedTable) -> None:
    table.change(1, "train_seconds", r"^\d", "1")


@attack("value")
def time_without_minutes(table: EditedTable) -> None:
    table.set(1, "train_seconds", "207")


@attack("value", table="grid/confusion")
def count_of_images(table: EditedTable) -> None:
    table.set(1, "TUMOR", "16")


@attack("value", table="grid/confusion")
def classes_of_two_columns_exchanged(table: EditedTable) -> None:
    headers = table.headers()
    first, second = headers.index("TUMOR"), headers.index("STROMA")
    table.set_at(0, first, "STROMA")
    table.set_at(0, second, "TUMOR")


@attack("value", table="grid/cost")
def total_of_costs(table: EditedTable) -> None:
    table.set(table.row_count(), "price", "0.10")


@attack("value", table="seeds/means")
def number_of_runs(table: EditedTable) -> None:
    table.set(1, "runs", "5")


@attack("value", table="seeds/means")
def smaller_deviation(table: EditedTable) -> None:
    table.change(1, "test_accuracy", r"± .*", "± 0.4")


@attack("value", table="seeds/means")
def best_seed_instead_of_the_mean(table: EditedTable) -> None:
    table.set(2, "test_accuracy", "95.0 ± 1.7")


# p-values and intervals


@attack("value", table="grid/differences")
def smaller_p_value(table: EditedTable) -> None:
    row = next(n for n in range(1, table.row_count() + 1) if "<" not in table.get(n, "p_holm"))
    table.set(row, "p_holm", "0.011")


@attack("value", table="grid/differences")
def limit_of_a_small_p_value(table: EditedTable) -> None:
    table.set(table.find_row(p="<"), "p", "< 0.0001")


@attack("value", table="grid/differences")
def number_for_a_small_p_value(table: EditedTable) -> None:
    table.set(table.find_row(p="<"), "p", "0.001")


@attack("value", table="grid/differences")
def limit_instead_of_a_p_value(table: EditedTable) -> None:
    row = next(n for n in range(1, table.row_count() + 1) if "<" not in table.get(n, "p"))
    table.set(row, "p", "< 0.05")


@attack("value")
def narrower_interval(table: EditedTable) -> None:
    table.change(1, "test_accuracy", r"\[[\d.]+", lambda low: f"[{float(low[0][1:]) + 2:.1f}")


@attack("value", table="grid/differences")
def interval_without_zero(table: EditedTable) -> None:
    table.change(1, "difference", r"\[[^,]*,", "[1,")


@attack("interval")
def one_interval_removed(table: EditedTable) -> None:
    table.change(1, "test_accuracy", r" \[.*\]", "")


@attack("interval")
def all_intervals_removed(table: EditedTable) -> None:
    table.change_column("test_accuracy", lambda text: text.partition(" ")[0])


@attack("interval", table="seeds/means")
def deviations_removed(table: EditedTable) -> None:
    table.change_column("test_accuracy", lambda text: text.partition(" ")[0])


# Words


@attack("value")
def best_label_moved(table: EditedTable) -> None:
    table.swap(VERDICT, table.find_row(**{VERDICT: BEST}), table.find_row(**{VERDICT: TIE}))


@attack("value")
def tie_made_worse(table: EditedTable) -> None:
    table.set(table.find_row(**{VERDICT: TIE}), VERDICT, WORSE)


@attack("value")
def tie_made_better(table: EditedTable) -> None:
    table.set(table.find_row(**{VERDICT: TIE}), VERDICT, BETTER)


@attack("value")
def stopped_made_completed(table: EditedTable) -> None:
    table.set(table.find_row(status="stopped"), "status", "completed")


@attack("value")
def value_where_nothing_was_measured(table: EditedTable) -> None:
    table.set(table.find_row(status="stopped"), "test_accuracy", "95.0 [90.0, 97.5]")


@attack("empty")
def number_erased(table: EditedTable) -> None:
    table.set(2, "best_val_accuracy", "")


@attack("empty")
def number_replaced_by_a_dash(table: EditedTable) -> None:
    table.set(2, "test_accuracy", "–")


@attack("words")
def unit_in_a_cell(table: EditedTable) -> None:
    table.change(1, "best_val_accuracy", "$", " %")


@attack("words")
def star_of_significance(table: EditedTable) -> None:
    table.change(1, "test_accuracy", r"^[\d.]*", r"\g<0>*")


@attack("words")
def remark_in_a_cell(table: EditedTable) -> None:
    table.change(2, "best_val_accuracy", "$", " (with TTA 99.0)")


@attack("words")
def about(table: EditedTable) -> None:
    table.change(2, "best_val_accuracy", "^", "≈ ")


# Rows


@attack("missing-row")
def row_that_lost(table: EditedTable) -> None:
    table.delete_row(table.find_row(**{VERDICT: re.escape(WORSE)}))


@attack("missing-row")
def row_that_ties(table: EditedTable) -> None:
    table.delete_row(table.find_row(**{VERDICT: TIE}))


@attack("missing-row")
def row_that_is_best(table: EditedTable) -> None:
    table.delete_row(table.find_row(**{VERDICT: BEST}))


@attack("missing-row")
def row_that_was_stopped(table: EditedTable) -> None:
    table.delete_row(table.find_row(status="stopped"))


@attack("missing-row")
def row_that_failed(table: EditedTable) -> None:
    table.delete_row(table.find_row(status="failed"))


@attack("missing-row", table="seeds/single")
def worst_seed_of_a_recipe(table: EditedTable) -> None:
    table.delete_row(table.find_row(batch_size="^16$", seed="2"))


@attack("missing-row", table="seeds/means")
def recipe_with_seeds(table: EditedTable) -> None:
    table.delete_row(2)


@attack("missing-row", table="grid/per-class")
def class_that_is_hard(table: EditedTable) -> None:
    table.delete_row(table.find_row(**{"class": "MUCOSA"}))


@attack("missing-row", table="grid/where")
def row_of_a_named_subset(table: EditedTable) -> None:
    table.delete_row(1)


@attack("missing-row")
def subset_with_an_honest_number_only(table: EditedTable) -> None:
    for _ in range(8):
        table.delete_row(1)
    table.replace_text("trials: 12 of", "trials: 4 of")


@attack("unknown-row", table="grid/where")
def rows_of_a_wider_subset(table: EditedTable) -> None:
    table.replace_text("'none'", "'features'")


@attack("repeated-row")
def row_twice_with_other_numbers(table: EditedTable) -> None:
    table.copy_row(2)
    table.set(table.row_count(), "test_accuracy", "91.0 [84.0, 95.1]")


@attack("unknown-row")
def invented_row(table: EditedTable) -> None:
    table.copy_row(1)
    row = table.row_count()
    table.set(row, "weights", "OURS")
    for name in ("final_train_loss", "best_val_loss", "test_accuracy", "best_val_accuracy"):
        table.set(row, name, "99.9")
    for name in ("best_train_accuracy", "final_val_accuracy", "train_seconds"):
        table.set(row, name, "99.8")


@attack("setting")
def setting_of_a_row(table: EditedTable) -> None:
    table.set(1, "batch_size", "256")


# Columns


@attack("missing-column")
def column_of_a_setting(table: EditedTable) -> None:
    table.delete_column("freeze")


@attack("missing-column", table="seeds/single")
def column_of_seeds(table: EditedTable) -> None:
    table.delete_column("batch_size")


@attack("value")
def header_of_another_measure(table: EditedTable) -> None:
    test, best = table.position("test_accuracy"), table.position("best_val_accuracy")
    table.set_at(0, test, column_header("best_val_accuracy", "en"))
    table.set_at(0, best, column_header("test_accuracy", "en"))


@attack("unknown-column")
def header_that_nobody_knows(table: EditedTable) -> None:
    table.set_at(0, table.position("test_accuracy"), "Performance (%)")
    table.set(1, "Performance (%)", "99.0")


@attack("unknown-column")
def unit_of_a_header(table: EditedTable) -> None:
    table.set_at(0, table.position("train_seconds"), "time (h)")


@attack("unknown-column")
def column_from_elsewhere(table: EditedTable) -> None:
    table.copy_column("best_val_accuracy")
    table.set_at(0, len(table.headers()) - 1, "external test acc. (%)")


@attack("repeated-column")
def column_twice_with_other_numbers(table: EditedTable) -> None:
    table.copy_column("best_val_accuracy")
    table.set_at(1, len(table.headers()) - 1, "99.0")


# Caption and notes


@attack("caption")
def number_of_trials_in_the_caption(table: EditedTable) -> None:
    table.replace_text("trials: 12 of 12", "trials: 48 of 48")


@attack("caption")
def data_in_the_caption(table: EditedTable) -> None:
    table.replace_text("compared on kather", "compared on CAMELYON")


@attack("sentence")
def number_of_images(table: EditedTable) -> None:
    table.replace_text("96 test images", "960 test images")


@attack("sentence")
def split_of_the_images(table: EditedTable) -> None:
    table.replace_text("Split: auto", "Split: grouped")


@attack("sentence")
def number_of_stopped_trials(table: EditedTable) -> None:
    table.replace_text("2 of 12 trials", "0 of 12 trials")


@attack("sentence")
def sentence_of_another_report(table: EditedTable) -> None:
    table.add_note(translate("note.no_stopping", "en"))


@attack("missing-warning")
def warning_deleted(table: EditedTable) -> None:
    table.delete_paragraph("WARNING")


@attack("missing-warning")
def warning_softened(table: EditedTable) -> None:
    table.replace_text("are too high", "are high")


@attack("missing-fingerprint")
def fingerprint_deleted(table: EditedTable) -> None:
    table.delete_paragraph("Made by bioimg")


@attack("other-results")
def fingerprint_of_other_results(table: EditedTable) -> None:
    table.replace_text("Made by bioimg from results ", "Made by bioimg from results 0")


# Markdown


@attack("missing-row", form="md", on_text=True)
def row_in_a_comment(text: str) -> str:
    return re.sub(r"(\| IMAGENET1K_V1 \| head only \| 32 .*)", r"<!--\n\1\n-->", text)


@attack("missing-row", form="md", on_text=True)
def row_below_an_empty_line(text: str) -> str:
    return text.replace(
        "| IMAGENET1K_V2 | head only | 128 ", "\n| IMAGENET1K_V2 | head only | 128 "
    )


@attack("words", form="md")
def number_struck_out(table: EditedTable) -> None:
    table.change(2, "best_val_accuracy", r".+", r"~~\g<0>~~")


@attack("words", form="md")
def number_in_html(table: EditedTable) -> None:
    table.change(2, "best_val_accuracy", r".+", r"<s>\g<0></s>")


@attack("bold", form="md")
def bold_on_another_row(table: EditedTable) -> None:
    table.change(2, "test_accuracy", r"^[\d.]+", r"**\g<0>**")


@attack("long-row", form="md")
def cell_beyond_the_header(table: EditedTable) -> None:
    table.change(2, VERDICT, "$", " | p < 0.001")


# LaTeX


@attack("missing-row", form="tex", on_text=True)
def row_commented_out(text: str) -> str:
    return re.sub(r"(?m)^(IMAGENET1K\\_V1 & head only & 32 )", r"% \1", text)


@attack("missing-row", form="tex", on_text=True)
def row_never_typeset(text: str) -> str:
    return re.sub(r"(IMAGENET1K\\_V1 & head only & 32 .*)", r"\\iffalse\n\1\n\\fi", text)


@attack("repeated-row", form="tex", on_text=True)
def row_above_the_first_rule(text: str) -> str:
    header = re.search(r"(?m)^weights & .*$", text)
    row = re.search(r"(?m)^IMAGENET1K\\_V1 & all layers & 32 .*$", text)
    assert header is not None
    assert row is not None
    rule = rf"\toprule{chr(10)}{header[0]}"
    return text.replace(rule, f"{header[0]}\n{row[0]}\n\\toprule")


@attack("value", form="tex")
def number_in_a_macro(table: EditedTable) -> None:
    table.set(2, "best_val_accuracy", r"\ours")


@attack("words", form="tex")
def number_in_white(table: EditedTable) -> None:
    table.change(2, "best_val_accuracy", ".+", r"\\textcolor{white}{\g<0>}")


@attack("bold", form="tex")
def textbf_on_another_row(table: EditedTable) -> None:
    table.change(2, "best_val_accuracy", ".+", r"\\textbf{\g<0>}")


@attack("value", form="tex")
def one_number_for_two_rows(table: EditedTable) -> None:
    table.change(1, "best_val_accuracy", ".+", r"\\multirow{2}{*}{\g<0>}")
    table.set(2, "best_val_accuracy", "")


# CSV


@attack("long-row", form="csv", on_text=True)
def decimal_comma_without_quotes(text: str) -> str:
    return re.sub(r'"(\d)\.(\d{4})"', r"\1,\2", text, count=1)


@attack("setting", form="csv", on_text=True)
def row_as_a_comment(text: str) -> str:
    return text.replace('"IMAGENET1K_V1","head only","32"', '#"IMAGENET1K_V1","head only","32"', 1)


@attack("unknown-row", form="csv", on_text=True)
def rows_below_the_notes(text: str) -> str:
    return f'{text}\n"# More"\n"OURS","all layers","32","10","0.01","99.9","0.1","99","99","99.9"\n'


@attack("value", form="csv")
def time_read_as_hours(table: EditedTable) -> None:
    table.change(1, "train_seconds", "$", ":00")


# Excel


@attack("formula", form="xlsx")
def formula_without_a_value(table: EditedExcel) -> None:
    table.cell(2, "best_val_accuracy").value = "=70+5"


@attack("format", form="xlsx")
def format_that_hides(table: EditedExcel) -> None:
    table.cell(2, "best_val_accuracy").number_format = ";;;"


@attack("format", form="xlsx")
def format_that_shows_another_number(table: EditedExcel) -> None:
    table.cell(2, "best_val_accuracy").number_format = '"97.5"'


@attack("format", form="xlsx")
def format_in_per_cent(table: EditedExcel) -> None:
    table.cell(2, "best_val_accuracy").number_format = "0.0%"


@attack("format", form="xlsx")
def format_under_a_condition(table: EditedExcel) -> None:
    style = DifferentialStyle(numFmt=NumberFormat(numFmtId=164, formatCode='"97.5"'))
    rule = Rule(type="expression", formula=["TRUE"], dxf=style)
    table.sheet.conditional_formatting.add("I5", rule)


@attack("digits", form="xlsx")
def format_without_decimals(table: EditedExcel) -> None:
    table.cell(1, "final_train_loss").number_format = "0"


@attack("value", form="xlsx")
def number_behind_its_format(table: EditedExcel) -> None:
    cell = table.cell(2, "final_train_loss")
    cell.value = round(cell.value, 4) + 0.000049


@attack("hidden", form="xlsx")
def hidden_row(table: EditedExcel) -> None:
    table.sheet.row_dimensions[table.HEADER_ROW + 2].hidden = True


@attack("hidden", form="xlsx")
def hidden_column(table: EditedExcel) -> None:
    table.sheet.column_dimensions["H"].hidden = True


@attack("hidden", form="xlsx")
def column_of_no_width(table: EditedExcel) -> None:
    table.sheet.column_dimensions["H"].width = 0.1


@attack("hidden", form="xlsx")
def hidden_sheet(table: EditedExcel) -> None:
    sheet = table.book.create_sheet("old")
    sheet["A1"] = "not for readers"
    sheet.sheet_state = "hidden"


@attack("hidden", form="xlsx")
def white_font(table: EditedExcel) -> None:
    table.cell(2, "best_val_accuracy").font = Font(color="FFFFFFFF")


@attack("hidden", form="xlsx")
def struck_font(table: EditedExcel) -> None:
    table.cell(2, "best_val_accuracy").font = Font(strike=True)


@attack("hidden", form="xlsx")
def tiny_font(table: EditedExcel) -> None:
    table.cell(2, "best_val_accuracy").font = Font(size=1)


@attack("bold", form="xlsx")
def bold_font_on_another_row(table: EditedExcel) -> None:
    table.cell(2, "best_val_accuracy").font = Font(bold=True)


@attack("unknown-row", form="xlsx")
def rows_below_a_heading(table: EditedExcel) -> None:
    row = table.sheet.max_row + 2
    table.sheet.cell(row, 1).value = "With our method"
    for column, value in enumerate(
        ["OURS", "all layers", 32, 10, 0.01, 99.9, "0.1", 99, 99], start=1
    ):
        table.sheet.cell(row + 1, column).value = value


@attack("repeated-row", form="xlsx")
def table_below_the_table(table: EditedExcel) -> None:
    row = table.sheet.max_row + 2
    for column, text in enumerate(table.headers(), start=1):
        table.sheet.cell(row, column).value = text
        table.sheet.cell(row + 1, column).value = table.get_at(1, column - 1)
        table.sheet.cell(row + 2, column).value = table.get_at(1, column - 1)


@attack("value", form="xlsx")
def wrong_table_on_a_second_sheet(table: EditedExcel) -> None:
    sheet = table.book.copy_worksheet(table.sheet)
    sheet.cell(table.HEADER_ROW + 2, table.position("best_val_accuracy") + 1).value = 99.0


@attack("value", form="xlsx")
def cells_of_two_rows_merged(table: EditedExcel) -> None:
    column = table.position("best_val_accuracy") + 1
    first = table.HEADER_ROW + 1
    table.sheet.merge_cells(
        start_row=first, end_row=first + 1, start_column=column, end_column=column
    )


@attack("setting", table="odd/per-class", form="xlsx")
def class_taken_for_a_date(table: EditedExcel) -> None:
    row = table.find_row(**{"class": "3-4"})
    table.cell(row, "class").value = datetime.datetime(2026, 3, 4)


# Word


def wrap_run(table: EditedWord, row: int, name: str, start: str, end: str) -> None:
    """Wrap the run of a cell in another element, with another number in it."""
    run = table.run(row, name)
    run.text = "99.0"
    element = run._r
    wrapper = parse_xml(f"{start} {nsdecls('w')}>{end}")
    parent = element.getparent()
    position = parent.index(element)
    inner = wrapper.find(qn("w:sdtContent"))
    (wrapper if inner is None else inner).append(element)
    parent.insert(position, wrapper)


@attack("value", form="docx")
def content_control(table: EditedWord) -> None:
    wrap_run(table, 2, "best_val_accuracy", "<w:sdt", "<w:sdtPr/><w:sdtContent/></w:sdt>")


@attack("value", form="docx")
def field(table: EditedWord) -> None:
    wrap_run(table, 2, "best_val_accuracy", '<w:fldSimple w:instr=" QUOTE 99.0 "', "</w:fldSimple>")


@attack("value", form="docx")
def second_run(table: EditedWord) -> None:
    table.cell(2, "best_val_accuracy").paragraphs[0].add_run("1")


@attack("hidden", form="docx")
def hidden_text(table: EditedWord) -> None:
    table.run(2, "best_val_accuracy").font.hidden = True


@attack("hidden", form="docx")
def white_text(table: EditedWord) -> None:
    table.run(2, "best_val_accuracy").font.color.rgb = RGBColor(255, 255, 255)


@attack("hidden", form="docx")
def text_struck_out(table: EditedWord) -> None:
    table.run(2, "best_val_accuracy").font.strike = True


@attack("hidden", form="docx")
def tiny_text(table: EditedWord) -> None:
    table.run(2, "best_val_accuracy").font.size = Pt(1)


@attack("hidden", form="docx")
def row_hidden_in_word(table: EditedWord) -> None:
    properties = table.table.rows[2]._tr.get_or_add_trPr()
    properties.append(parse_xml(f"<w:hidden {nsdecls('w')}/>"))


@attack("bold", form="docx")
def bold_run_on_another_row(table: EditedWord) -> None:
    table.run(2, "best_val_accuracy").bold = True


@attack("value", form="docx")
def cells_merged_in_word(table: EditedWord) -> None:
    other = table.cell(2, "best_val_accuracy")
    other.paragraphs[0].runs[0].text = ""
    table.cell(1, "best_val_accuracy").merge(other)


@attack("value", form="docx")
def wrong_second_table(table: EditedWord) -> None:
    accuracy = table.get(2, "best_val_accuracy")
    copied = parse_xml(table.table._tbl.xml.replace(f">{accuracy}<", ">99<"))
    table.table._tbl.addnext(copied)
    table.table._tbl.addnext(parse_xml(f"<w:p {nsdecls('w')}/>"))


# Honest edits


@honest()
def fewer_decimals(table: EditedTable) -> None:
    table.change_column("best_val_accuracy", lambda text: f"{float(text):.0f}")


@honest()
def fewer_decimals_of_intervals(table: EditedTable) -> None:
    table.change_column(
        "test_accuracy", lambda text: re.sub(r"[\d.]+", lambda m: f"{float(m[0]):.0f}", text)
    )


@honest()
def losses_without_epochs(table: EditedTable) -> None:
    table.change_column("best_val_loss", lambda text: text.partition(" ")[0])


@honest()
def other_order_of_rows(table: EditedTable) -> None:
    table.copy_row(1)
    table.delete_row(1)


@honest()
def other_order_of_columns(table: EditedTable) -> None:
    table.copy_column("train_seconds")
    table.delete_column("train_seconds")


@honest()
def column_of_measures_left_out(table: EditedTable) -> None:
    table.delete_column("final_train_loss")


@honest()
def column_of_equal_settings_left_out(table: EditedTable) -> None:
    table.delete_column("epochs")


@honest()
def headers_in_chinese(table: EditedTable) -> None:
    for position, column in enumerate(COLUMNS):
        table.set_at(0, position, column_header(column, "zh-TW"))


@honest()
def headers_without_units(table: EditedTable) -> None:
    table.set_at(0, table.position("test_accuracy"), "test acc.")


@honest()
def short_names_of_weights(table: EditedTable) -> None:
    table.change_column("weights", lambda text: text.removeprefix("IMAGENET1K_"))


@honest()
def capital_letters(table: EditedTable) -> None:
    table.change_column(VERDICT, str.capitalize)


@honest()
def number_of_the_table(table: EditedTable) -> None:
    table.replace_text("Recipes compared", "Table 3. Recipes compared")


@honest()
def sentence_after_the_caption(table: EditedTable) -> None:
    table.replace_text("12 of 12)", "12 of 12). Trained on one GPU.")


@honest()
def caption_of_its_own(table: EditedTable) -> None:
    table.replace_text("Recipes compared on kather (trials: 12 of 12)", "Which recipe is best?")


@honest()
def further_note(table: EditedTable) -> None:
    table.add_note("Images: 5 µm sections, stained in 2025. We repeated this with 3 scanners.")


@honest()
def note_left_out(table: EditedTable) -> None:
    table.delete_paragraph("Selection")


@honest(table="grid/where")
def sentence_after_a_condition(table: EditedTable) -> None:
    table.replace_text("'none'", "'none'. Trained on one GPU.")


@honest(table="seeds/means")
def decimal_commas(table: EditedTable) -> None:
    table.change_column("test_accuracy", lambda text: text.replace(".", ","))


@honest(form="md")
def bold_on_the_best(table: EditedTable) -> None:
    table.change(table.find_row(**{VERDICT: BEST}), "test_accuracy", r"^[\d.]+", r"**\g<0>**")
    table.change(2, "best_val_accuracy", ".+", r"*\g<0>*")


@honest(form="md")
def column_in_bold(table: EditedTable) -> None:
    for row in range(1, table.row_count() + 1):
        table.change(row, "train_seconds", ".+", r"**\g<0>**")


@honest(form="md", on_text=True)
def table_in_an_article(text: str) -> str:
    return f"# Results\n\nWe trained 12 recipes.\n\n{text}\n## Discussion\n\nNone.\n"


@honest(form="tex")
def numbers_in_math(table: EditedTable) -> None:
    table.change_column("best_val_accuracy", lambda text: f"${text}$")


@honest(form="tex")
def settings_over_several_rows(table: EditedTable) -> None:
    table.set(1, "weights", r"\multirow{6}{*}{IMAGENET1K_V1}")
    for row in range(2, 7):
        table.set(row, "weights", "")


@honest(form="csv", on_text=True)
def semicolons_and_decimal_commas(text: str) -> str:
    comments = [line for line in text.splitlines() if line.startswith("#")]
    file = io.StringIO()
    for row in csv.reader(text.splitlines()[len(comments) :]):
        cells = [re.sub(r"^(\d+)\.(\d+)$", r"\1,\2", cell) for cell in row]
        csv.writer(file, delimiter=";", lineterminator="\n").writerow(cells)
    return "\n".join([*comments, file.getvalue()])


@honest(form="csv", on_text=True)
def saved_by_a_spreadsheet(text: str) -> str:
    output = io.StringIO()
    writer = csv.writer(output)
    for line in text.splitlines():
        if line.startswith("#"):
            output.write(f"{line}{',' * 12}\n")
        else:
            writer.writerows(csv.reader([line]))
    return output.getvalue()


@honest(form="xlsx")
def sub_heading_between_rows(table: EditedExcel) -> None:
    table.sheet.insert_rows(table.HEADER_ROW + 7, amount=2)
    table.sheet.cell(table.HEADER_ROW + 8, 1).value = "Newer weights"


@honest(form="xlsx")
def weights_merged(table: EditedExcel) -> None:
    first = table.HEADER_ROW + 1
    table.sheet.merge_cells(start_row=first, end_row=first + 5, start_column=1, end_column=1)


@honest(form="xlsx")
def further_sheet(table: EditedExcel) -> None:
    table.book.create_sheet("remarks")["A1"] = "Checked by AB"


@honest(form="docx")
def weights_merged_in_word(table: EditedWord) -> None:
    last = table.cell(6, "weights")
    for row in range(2, 7):
        table.run(row, "weights").text = ""
    table.cell(1, "weights").merge(last)


@honest(form="docx")
def header_in_white_on_a_dark_ground(table: EditedWord) -> None:
    for name in table.headers():
        table.run(0, name).font.color.rgb = RGBColor(255, 255, 255)
        properties = table.cell(0, name)._tc.get_or_add_tcPr()
        properties.append(parse_xml(f'<w:shd {nsdecls("w")} w:fill="1F3864"/>'))


# Tests


def cases(kinds: list[Kind], each_format: bool) -> list[Any]:
    """Return kinds with formats: with their own one, with one in turn, or with each."""
    forms_in_turn = cycle(FORMATS)
    pairs = []
    for kind in kinds:
        if each_format:
            pairs += [(kind, form) for form in FORMATS if not kind.form]
        else:
            pairs.append((kind, kind.form or next(forms_in_turn)))
    return [pytest.param(kind, form, id=f"{kind.name}-{form}") for kind, form in pairs]


def test_there_are_sixty_kinds_of_wrong_tables_and_ten_of_honest_ones() -> None:
    assert len({kind.name for kind in ATTACKS}) == len(ATTACKS) >= 60
    assert len({kind.name for kind in HONEST_EDITS}) == len(HONEST_EDITS) >= 10
    assert {kind.form for kind in ATTACKS} == {"", *FORMATS}


@pytest.mark.parametrize(("kind", "form"), cases(ATTACKS, each_format=False))
def test_wrong_table_is_caught(
    reports: dict[str, Report], tmp_path: Path, kind: Kind, form: str
) -> None:
    errors = kind.apply(reports, form, tmp_path).errors
    assert kind.code in {error.code for error in errors}


@pytest.mark.nightly
@pytest.mark.parametrize(("kind", "form"), cases(ATTACKS, each_format=True))
def test_wrong_table_is_caught_in_each_format(
    reports: dict[str, Report], tmp_path: Path, kind: Kind, form: str
) -> None:
    errors = kind.apply(reports, form, tmp_path).errors
    assert kind.code in {error.code for error in errors}


@pytest.mark.parametrize(("kind", "form"), cases(HONEST_EDITS, each_format=False))
def test_honest_edit_passes(
    reports: dict[str, Report], tmp_path: Path, kind: Kind, form: str
) -> None:
    assert kind.apply(reports, form, tmp_path).errors == []


@pytest.mark.nightly
@pytest.mark.parametrize(("kind", "form"), cases(HONEST_EDITS, each_format=True))
def test_honest_edit_passes_in_each_format(
    reports: dict[str, Report], tmp_path: Path, kind: Kind, form: str
) -> None:
    assert kind.apply(reports, form, tmp_path).errors == []


@pytest.mark.parametrize("tag", ["ins", "del", "moveFrom", "moveTo"])
def test_word_file_with_tracked_changes_is_refused(
    reports: dict[str, Report], tmp_path: Path, tag: str
) -> None:
    (path,) = documents.write_table(reports["grid"].tables["comparison"], tmp_path, ["docx"])
    table = open_table(path)
    start = f'<w:{tag} w:id="1" w:author="A"'
    wrap_run(table, 2, "best_val_accuracy", start, f"</w:{tag}>")
    table.save()
    message = r"has tracked changes \(1\), so that its text isn't settled\. Accept or reject"
    with pytest.raises(UserError, match=message):
        verify_file(path, reports["grid"].analysis)


def test_caption_with_a_broken_condition_is_refused(
    reports: dict[str, Report], tmp_path: Path
) -> None:
    (path,) = documents.write_table(reports["grid"].tables["where"], tmp_path, ["md"])
    table = open_table(path)
    table.replace_text("where freeze == 'none'", "where freeze is as it should be")
    table.save()
    with pytest.raises(UserError, match=r"the caption .* of the table at line 3 can't be applied"):
        verify_file(path, reports["grid"].analysis)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("results", ["grid", "seeds", "odd"])
def test_untouched_tables_pass(
    reports: dict[str, Report], tmp_path: Path, results: str, form: str
) -> None:
    report = reports[results]
    for table in report.tables.values():
        (path,) = documents.write_table(table, tmp_path, [form])
        verification = verify_file(path, report.analysis)
        assert verification.findings == (), table.name
        assert verification.compared_cells == len(table.values) * len(table.columns)


@pytest.mark.nightly
@pytest.mark.parametrize("lang", LANGUAGES)
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("results", ["grid", "seeds", "odd"])
def test_every_untouched_table_passes_in_each_language(
    reports: dict[str, Report], tmp_path: Path, results: str, form: str, lang: str
) -> None:
    analysis = reports[results].analysis
    tables = [
        build_comparison(analysis, lang=lang),
        build_comparison(analysis, single=True, lang=lang),
        build_comparison(analysis, rows="batch_size in [16, 32]", lang=lang),
        build_comparison(analysis, group_by=["weights", "freeze"], lang=lang),
        build_comparison(analysis, columns=SCORES, lang=lang),
        *detail_tables.build_detail_tables(analysis, lang),
    ]
    for table in tables:
        (path,) = documents.write_table(table, tmp_path, [form])
        assert verify_file(path, analysis).findings == (), table.name
