"""What `bioimg report` prints."""

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill

from rich import box
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from bioimg.report.headline import draw_conclusions
from bioimg.report.table_model import Table, display_width
from bioimg.results.result_store import Results

MAX_PRINTED_ROWS = 40
"""Rows (and claims) that are printed; the files have all of them."""

PRIORITY_COLUMNS = ("test_accuracy", "standing", "status", "runs", "best_val_loss", "train_seconds")
"""The measures to print where the terminal is too narrow for all columns, the most important first."""

MAX_TEXT_CHARACTERS = 24
"""Characters of a text before it is folded."""


def print_report(
    results: Results, tables: Sequence[Table], out: Path, console: Console | None = None
) -> None:
    """Print the first table (all tables of a preset), what can be claimed, and where the files are."""
    console = console or Console(highlight=False)
    preset = tables[0].name == "table-1"
    for table in tables if preset else tables[:1]:
        _print_table(table, console)
    if tables[0].name in ("comparison", "table-1"):
        _print_conclusions(results, console)
    names = ", ".join(table.name for table in tables)
    console.print(Text(f"\n{len(tables)} table{'s' if len(tables) > 1 else ''} in {out}: {names}"))


def print_comparison(results: Results, table: Table, console: Console | None = None) -> None:
    """Print the comparison table and what can be claimed from it."""
    console = console or Console(highlight=False)
    _print_table(table, console)
    _print_conclusions(results, console)


def _print_table(table: Table, console: Console) -> None:
    cells = table.cells()[:MAX_PRINTED_ROWS]
    widths = [
        max(1, *map(display_width, name.split()), min(MAX_TEXT_CHARACTERS, _widest_cell(cells, n)))
        for n, name in enumerate(table.headers)
    ]
    places = _columns_that_fit(table, widths, console.width)
    grid = Grid(
        title=Text(table.caption),
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for place in places:
        text = table.columns[place].identity or table.columns[place].kind == "text"
        name = fill(table.headers[place], widths[place], break_long_words=False)
        grid.add_column(
            Text(name), justify="left" if text else "right", overflow="fold", no_wrap=not text
        )
    for row in cells:
        grid.add_row(*(Text(row[place]) for place in places))
    console.print(grid)
    left_out = [*_omitted_rows(table), *_omitted_columns(table, places)]
    if left_out:
        console.print(Text(f"Not shown here: {'; '.join(left_out)}."), style="dim")
    for notice in table.notices:
        console.print(Text(f"- {notice}"), style="yellow bold" if notice.is_warning else "dim")


def _widest_cell(cells: Sequence[Sequence[str]], place: int) -> int:
    return max((display_width(row[place]) for row in cells), default=1)


def _omitted_rows(table: Table) -> list[str]:
    return (
        [f"more rows: {len(table.values) - MAX_PRINTED_ROWS}"]
        if len(table.values) > MAX_PRINTED_ROWS
        else []
    )


def _omitted_columns(table: Table, places: Sequence[int]) -> list[str]:
    return [
        f"the columns {', '.join(name for n, name in enumerate(table.headers) if n not in places)}"
    ] * (len(places) < len(table.columns))


def _columns_that_fit(table: Table, widths: Sequence[int], room: int) -> list[int]:
    """All columns if their cells fit; else those that identify rows and as many of the most important ones as fit."""
    names = [column.name for column in table.columns]
    if sum(widths) + 3 * len(widths) <= room or not set(PRIORITY_COLUMNS) & set(names):
        return list(range(len(names)))
    places = [n for n, column in enumerate(table.columns) if column.identity]
    for place in (names.index(name) for name in PRIORITY_COLUMNS if name in names):
        if sum(widths[n] + 3 for n in (*places, place)) <= room:
            places.append(place)
    return sorted(places)


def _print_conclusions(results: Results, console: Console) -> None:
    said = draw_conclusions(results)
    console.print(Text(f"\n{said.headline}"), style="bold")
    for title, lines in (
        ("Holds", said.distinguishable),
        ("Can't be claimed", said.not_distinguishable),
        ("Not compared", said.not_compared),
    ):
        if lines:
            console.print(Text(title), style="bold")
            console.print(
                Text("\n".join(f"- {line}" for line in lines[:MAX_PRINTED_ROWS])), soft_wrap=False
            )
        if len(lines) > MAX_PRINTED_ROWS:
            console.print(Text(f"- and {len(lines) - MAX_PRINTED_ROWS} more"), style="dim")
