"""Print tables and what can be claimed from them on the console."""

from collections.abc import Sequence
from textwrap import fill

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from bioimg.report import sentences
from bioimg.report.detail_tables import external_table
from bioimg.report.report_context import ReportContext
from bioimg.report.table_model import Table, display_width
from bioimg.report.tested_set import TestedSet

MAX_PRINTED_ROWS = 40
"""Rows (and claims) that are printed; the files have all of them."""

PRIORITY_COLUMNS = (
    "test_accuracy",
    "balanced_accuracy",
    "score_away",
    "change",
    "verdict",
    "tuned_values",
    "status",
    "runs",
    "best_val_loss",
    "recipe_seconds",
)
"""The measures to print where the terminal is too narrow for all columns, most important first."""

MAX_TEXT_CHARACTERS = 24
"""Characters of a text before it is folded."""

COLUMN_GAP = 3


def print_table(report: ReportContext, table: Table, console: Console | None = None) -> None:
    """Print a table as wide as the terminal and, below a comparison, what can be claimed."""
    console = console or Console(highlight=False)
    cells = table.cells()[:MAX_PRINTED_ROWS]
    widths = _column_widths(table.headers, cells)
    positions = _columns_that_fit(table, widths, console.width)
    console.print(_make_grid(table, cells, widths, positions))
    omissions = _omission_text(report, table, positions)
    if omissions:
        console.print(Text(report.text("console.not_shown", what=omissions)), style="dim")
    for check in table.checks:
        style = "yellow bold" if check.level == "warning" else "dim"
        console.print(Text(f"- {check.text(table.lang)}"), style=style)
    if table.name == "comparison":
        _print_conclusions(report, console)


def print_external_set(report: ReportContext, name: str, console: Console | None = None) -> None:
    """Print what recipes reached on an external set, and what can be said of the best one."""
    console = console or Console(highlight=False)
    print_table(report, external_table(report.analysis, report.lang, only=name), console)
    for tested in report.analysis.external_sets:
        if tested.name == name:
            _print_external_conclusion(report, tested, console)


def _print_external_conclusion(report: ReportContext, tested: TestedSet, console: Console) -> None:
    first, *others = sentences.describe_external_set(report, tested)
    console.print(Text(f"\n{first}"), style="bold")
    for sentence in others:
        console.print(Text(sentence))


def _make_grid(
    table: Table,
    cells: Sequence[Sequence[str]],
    widths: Sequence[int],
    positions: Sequence[int],
) -> Grid:
    """Lay out the columns at these positions. Text is on the left and may be folded."""
    grid = Grid(
        title=Text(table.caption),
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for position in positions:
        is_left_aligned = table.columns[position].is_left_aligned
        justify = "left" if is_left_aligned else "right"
        header = fill(table.headers[position], widths[position], break_long_words=False)
        grid.add_column(Text(header), justify=justify, overflow="fold", no_wrap=not is_left_aligned)
    for row in cells:
        # a Text, since a string in square brackets would be read as markup
        texts = [Text(row[position]) for position in positions]
        grid.add_row(*texts)
    return grid


def _column_widths(headers: Sequence[str], cells: Sequence[Sequence[str]]) -> list[int]:
    """Return the width of each column. Headers are wrapped between words, long texts folded."""
    widths = []
    for position, header in enumerate(headers):
        widest_cell = max((display_width(row[position]) for row in cells), default=1)
        widest_word = max(map(display_width, header.split()), default=1)
        folded_width = min(MAX_TEXT_CHARACTERS, widest_cell)
        widths.append(max(widest_word, folded_width))
    return widths


def _columns_that_fit(table: Table, widths: Sequence[int], width: int) -> list[int]:
    """Return the positions of all columns or, if they don't fit, of the most important ones.

    Columns that identify rows are always among them.
    """
    names = [column.name for column in table.columns]
    priorities = [names.index(name) for name in PRIORITY_COLUMNS if name in names]
    all_positions = list(range(len(names)))
    if not priorities or _total_width(all_positions, widths) <= width:
        return all_positions
    positions = [n for n, column in enumerate(table.columns) if column.identity]
    for position in priorities:
        if _total_width([*positions, position], widths) <= width:
            positions.append(position)
    return sorted(positions)


def _total_width(positions: Sequence[int], widths: Sequence[int]) -> int:
    return sum(widths[position] + COLUMN_GAP for position in positions)


def _omission_text(report: ReportContext, table: Table, positions: Sequence[int]) -> str:
    """Say how many rows and which columns aren't printed. Empty if all are."""
    omissions = []
    more_rows = len(table.values) - MAX_PRINTED_ROWS
    if more_rows > 0:
        omissions.append(report.text("console.more_rows", n=more_rows))
    omitted = [name for n, name in enumerate(table.headers) if n not in positions]
    if omitted:
        omissions.append(report.text("console.left_out_columns", names=", ".join(omitted)))
    return "; ".join(omissions)


def _print_conclusions(report: ReportContext, console: Console) -> None:
    console.print(Text(f"\n{sentences.headline(report)}"), style="bold")
    for sentence in sentences.headline_details(report):
        console.print(Text(sentence))
    pairs = report.analysis.best_pairs
    differences = pairs["verdict"].isin(["better", "worse"])
    scope = report.analysis.scope
    _print_lines(report, f"console.holds_{scope}", _claims(report, differences), console)
    ties = pairs["verdict"].eq("tie")
    _print_lines(report, "console.tie", _claims(report, ties), console)
    _print_lines(report, "console.unknown", _not_compared(report), console)
    for tested in report.analysis.external_sets:
        _print_external_conclusion(report, tested, console)
    for grouped in report.analysis.grouped_sets:
        console.print(Text(sentences.describe_groups(report, grouped)))


def _claims(report: ReportContext, chosen: pd.Series) -> list[str]:
    """Return what can be claimed of each of these pairs with the best recipe."""
    lines = []
    for pair in report.analysis.best_pairs[chosen].to_dict("records"):
        recipe = report.recipe(pair["a"])
        lines.append(f"{recipe}: {sentences.claim(report.analysis, pair, report.lang)}")
    return lines


def _not_compared(report: ReportContext) -> list[str]:
    """Return each reason not to compare recipes once, with those it applies to."""
    pairs = report.analysis.best_pairs
    lines = []
    for reason, rows in pairs[pairs["verdict"].eq("unknown")].groupby("reason", sort=False):
        names = [report.recipe(key) for key in rows["a"].head(sentences.MAX_NAMED_RECIPES)]
        unnamed_count = len(rows) - len(names)
        if unnamed_count > 0:
            names.append(report.text("console.more", n=unnamed_count))
        lines.append(f"{'; '.join(names)}: {report.text(f'reason.{reason}')}")
    return lines


def _print_lines(report: ReportContext, title: str, lines: list[str], console: Console) -> None:
    if not lines:
        return
    console.print(Text(report.text(title)), style="bold")
    for line in lines[:MAX_PRINTED_ROWS]:
        console.print(Text(f"- {line}"))
    more_lines = len(lines) - MAX_PRINTED_ROWS
    if more_lines > 0:
        console.print(Text(f"- {report.text('console.more', n=more_lines)}"), style="dim")
