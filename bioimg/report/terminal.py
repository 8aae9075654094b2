"""Print tables and conclusions on the console."""

from collections.abc import Sequence
from textwrap import fill

from rich import box
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from bioimg.report.analysis import Analysis
from bioimg.report.headline import draw_conclusions
from bioimg.report.table_model import Table, display_width

MAX_PRINTED_ROWS = 40
"""Rows (and claims) that are printed; the files have all of them."""

PRIORITY_COLUMNS = (
    "test_accuracy",
    "standing",
    "status",
    "runs",
    "best_val_loss",
    "recipe_seconds",
)
"""The measures to print where the terminal is too narrow for all columns, most important first."""

MAX_TEXT_CHARACTERS = 24
"""Characters of a text before it is folded."""

COLUMN_GAP = 3


def print_report(
    analysis: Analysis, tables: Sequence[Table], console: Console | None = None
) -> None:
    """Print the first table (all tables of a preset) and what can be claimed from the results."""
    console = console or Console(highlight=False)
    is_preset = tables[0].name == "table-1"
    printed = tables if is_preset else tables[:1]
    for table in printed:
        _print_table(table, console)
    if is_preset or tables[0].name == "comparison":
        _print_conclusions(analysis, console)


def _print_table(table: Table, console: Console) -> None:
    cells = table.cells()[:MAX_PRINTED_ROWS]
    widths = _column_widths(table.headers, cells)
    positions = _columns_that_fit(table, widths, console.width)
    console.print(_make_grid(table, cells, widths, positions))
    omissions = _omission_text(table, positions)
    if omissions:
        console.print(Text(f"Not shown here: {omissions}."), style="dim")
    for check in table.checks:
        style = "yellow bold" if check.level == "warning" else "dim"
        console.print(Text(f"- {check.text(table.lang)}"), style=style)


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


def _omission_text(table: Table, positions: Sequence[int]) -> str:
    """Say how many rows and which columns aren't printed. Empty if all are."""
    omissions = []
    more_rows = len(table.values) - MAX_PRINTED_ROWS
    if more_rows > 0:
        omissions.append(f"more rows: {more_rows}")
    omitted = [name for n, name in enumerate(table.headers) if n not in positions]
    if omitted:
        omissions.append(f"the columns {', '.join(omitted)}")
    return "; ".join(omissions)


def _print_conclusions(analysis: Analysis, console: Console) -> None:
    conclusions = draw_conclusions(analysis)
    console.print(Text(f"\n{conclusions.headline}"), style="bold")
    _print_lines("Holds", conclusions.distinguishable, console)
    _print_lines("Can't be claimed", conclusions.not_distinguishable, console)
    _print_lines("Not compared", conclusions.not_compared, console)


def _print_lines(title: str, lines: Sequence[str], console: Console) -> None:
    if not lines:
        return
    console.print(Text(title), style="bold")
    for line in lines[:MAX_PRINTED_ROWS]:
        console.print(Text(f"- {line}"))
    more_lines = len(lines) - MAX_PRINTED_ROWS
    if more_lines > 0:
        console.print(Text(f"- and {more_lines} more"), style="dim")
