"""Files of the report, opened as a person would open them to edit a table.

An `EditedTable` is a grid of cells, of which row 0 is the header, with the text around it. It has
the same commands for each format, and keeps what it doesn't change as the report wrote it.
"""

import copy
import csv
import io
import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

from docx import Document
from openpyxl import load_workbook
from openpyxl.worksheet.worksheet import Worksheet

from bioimg.report.translation import column_header


class EditedTable(ABC):
    """A table in a file. Columns are named as in the results, rows are counted from 1."""

    @abstractmethod
    def headers(self) -> list[str]:
        """Return the texts of row 0."""

    @abstractmethod
    def row_count(self) -> int:
        """Return the number of rows below the header."""

    @abstractmethod
    def get_at(self, row: int, column: int) -> str:
        """Return the text of a cell."""

    @abstractmethod
    def set_at(self, row: int, column: int, text: str) -> None:
        """Replace the text of a cell."""

    @abstractmethod
    def delete_row(self, row: int) -> None:
        """Delete a row."""

    @abstractmethod
    def copy_row(self, row: int) -> None:
        """Copy a row to the end of the table."""

    @abstractmethod
    def delete_column(self, name: str) -> None:
        """Delete a column."""

    @abstractmethod
    def copy_column(self, name: str) -> None:
        """Copy a column to the right side of the table."""

    @abstractmethod
    def replace_text(self, old: str, new: str) -> None:
        """Replace a text in caption or notes. It must be there."""

    @abstractmethod
    def delete_paragraph(self, beginning: str) -> None:
        """Delete the paragraph that begins like this."""

    @abstractmethod
    def add_note(self, text: str) -> None:
        """Add a note below the others."""

    @abstractmethod
    def save(self) -> None:
        """Write the file."""

    def position(self, name: str) -> int:
        """Return the position of a column by its name or header."""
        headers = self.headers()
        known = {name, *(column_header(name, lang) for lang in ("en", "zh-TW"))}
        return next(n for n, header in enumerate(headers) if header in known)

    def get(self, row: int, name: str) -> str:
        """Return the text of a cell."""
        return self.get_at(row, self.position(name))

    def set(self, row: int, name: str, text: str) -> None:
        """Replace the text of a cell."""
        self.set_at(row, self.position(name), text)

    def change(
        self, row: int, name: str, old: str, new: str | Callable[[re.Match[str]], str]
    ) -> None:
        """Replace a part of a cell that a pattern matches, which must be there."""
        text = self.get(row, name)
        assert re.search(old, text), f"{old!r} isn't in {text!r}"
        self.set(row, name, re.sub(old, new, text, count=1))

    def change_column(self, name: str, change: Callable[[str], str]) -> None:
        """Change every cell of a column that isn't missing."""
        for row in range(1, self.row_count() + 1):
            text = self.get(row, name)
            if text != "–":
                self.set(row, name, change(text))

    def swap(self, name: str, row: int, other: int) -> None:
        """Exchange the cells of two rows, which must differ."""
        text, other_text = self.get(row, name), self.get(other, name)
        assert text != other_text
        self.set(row, name, other_text)
        self.set(other, name, text)

    def find_row(self, **texts: str) -> int:
        """Return the first row with these texts in these columns."""
        for row in range(1, self.row_count() + 1):
            if all(re.search(text, self.get(row, name)) for name, text in texts.items()):
                return row
        raise AssertionError(f"no row has {texts}")


class EditedText(EditedTable):
    """A table in a text file: the lines above it, a grid of sources of cells, the lines below."""

    above: list[str]
    grid: list[list[str]]
    below: list[str]

    def __init__(self, path: Path) -> None:
        self.path = path
        self.read(path.read_text(encoding="utf-8-sig"))

    @abstractmethod
    def read(self, text: str) -> None:
        """Set `above`, `grid` and `below`."""

    @abstractmethod
    def compose(self) -> str:
        """Return the text of the file."""

    def plain(self, source: str) -> str:
        """Return the text of a cell."""
        return source

    def source(self, text: str) -> str:
        """Return a text as the format writes it."""
        return text

    def headers(self) -> list[str]:
        return [self.plain(cell) for cell in self.grid[0]]

    def row_count(self) -> int:
        return len(self.grid) - 1

    def get_at(self, row: int, column: int) -> str:
        return self.plain(self.grid[row][column])

    def set_at(self, row: int, column: int, text: str) -> None:
        self.grid[row][column] = self.source(text)

    def delete_row(self, row: int) -> None:
        del self.grid[row]

    def copy_row(self, row: int) -> None:
        self.grid.append(list(self.grid[row]))

    def delete_column(self, name: str) -> None:
        position = self.position(name)
        for row in self.grid:
            del row[position]

    def copy_column(self, name: str) -> None:
        position = self.position(name)
        for row in self.grid:
            row.append(row[position])

    def replace_text(self, old: str, new: str) -> None:
        text = "\n".join([*self.above, "\x00", *self.below])
        assert self.source(old) in text, f"{old!r} isn't in the text"
        above, below = text.replace(self.source(old), self.source(new), 1).split("\x00")
        self.above, self.below = above.split("\n")[:-1], below.split("\n")[1:]

    def delete_paragraph(self, beginning: str) -> None:
        for lines in (self.above, self.below):
            for line in lines:
                if line.lstrip("-*# ").startswith(self.source(beginning)):
                    lines.remove(line)
                    return
        raise AssertionError(f"no paragraph begins with {beginning!r}")

    def save(self) -> None:
        self.path.write_text(self.compose(), encoding="utf-8")


class EditedMarkdown(EditedText):
    def read(self, text: str) -> None:
        lines = text.splitlines()
        rows = [number for number, line in enumerate(lines) if line.startswith("|")]
        self.above, self.below = lines[: rows[0]], lines[rows[-1] + 1 :]
        self.grid = [lines[number][2:-2].split(" | ") for number in rows]
        del self.grid[1]  # the dashes

    def compose(self) -> str:
        rows = [f"| {' | '.join(row)} |" for row in self.grid]
        rows.insert(1, "| --- " * len(self.grid[0]) + "|")
        return "\n".join([*self.above, *rows, *self.below, ""])

    def plain(self, source: str) -> str:
        return source.replace("\\", "")

    def add_note(self, text: str) -> None:
        self.below.append(f"- {text}")


class EditedLatex(EditedText):
    def read(self, text: str) -> None:
        lines = text.splitlines()
        header = lines.index(r"\toprule") + 1
        end = lines.index(r"\bottomrule")
        self.above, self.below = lines[:header], lines[end:]
        rows = [lines[header], *lines[header + 2 : end]]
        self.grid = [row.removesuffix(r" \\").split(" & ") for row in rows]

    def compose(self) -> str:
        rows = [rf"{' & '.join(row)} \\" for row in self.grid]
        rows.insert(1, r"\midrule")
        return "\n".join([*self.above, *rows, *self.below, ""])

    def plain(self, source: str) -> str:
        source = re.sub(r"\\shortstack\[\w\]\{(.*)\\\\ (.*)\}", r"\1 \2", source)
        source = source.replace(r"{\textendash}", "–").replace(r"\textless{}", "<")
        return (
            source.replace("{[}", "[")
            .replace("{]}", "]")
            .replace("$-$", "−")
            .replace(r"$\pm$", "±")
            .replace("\\", "")
        )

    def source(self, text: str) -> str:
        for character in "%_":
            text = text.replace(character, rf"\{character}")
        text = text.replace("±", r"$\pm$")
        return text.replace("–", r"{\textendash}").replace("<", r"\textless{}")

    def add_note(self, text: str) -> None:
        end = next(n for n, line in enumerate(self.below) if r"\end{minipage}" in line)
        self.below[end - 1] += r"\par"
        self.below.insert(end, text)


class EditedCsv(EditedText):
    def read(self, text: str) -> None:
        lines = text.splitlines()
        self.above = [line for line in lines if line.startswith("#")]
        self.below = []
        self.grid = list(csv.reader(lines[len(self.above) :]))

    def compose(self) -> str:
        file = io.StringIO()
        csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows(self.grid)
        return "\n".join([*self.above, file.getvalue(), *self.below])

    def add_note(self, text: str) -> None:
        self.above.append(f"# {text}")


class EditedExcel(EditedTable):
    """A table that begins in the third row of the first sheet."""

    HEADER_ROW = 3

    def __init__(self, path: Path) -> None:
        self.path = path
        self.book = load_workbook(path)
        sheet = self.book.worksheets[0]
        assert isinstance(sheet, Worksheet)
        self.sheet = sheet

    def cell(self, row: int, name: str) -> Any:
        """Return a cell by its row in the table and its column's name."""
        return self.sheet.cell(self.HEADER_ROW + row, self.position(name) + 1)

    def headers(self) -> list[str]:
        return [str(cell.value) for cell in self.sheet[self.HEADER_ROW] if cell.value is not None]

    def row_count(self) -> int:
        count = 0
        for cells in self.sheet.iter_rows(min_row=self.HEADER_ROW + 1, values_only=True):
            if sum(value is not None for value in cells) < 2:
                break
            count += 1
        return count

    def get_at(self, row: int, column: int) -> str:
        cell = self.sheet.cell(self.HEADER_ROW + row, column + 1)
        if isinstance(cell.value, int | float):
            _, _, decimals = cell.number_format.partition(".")
            return f"{cell.value:.{len(decimals)}f}"
        return str(cell.value)

    def set_at(self, row: int, column: int, text: str) -> None:
        cell = self.sheet.cell(self.HEADER_ROW + row, column + 1)
        try:
            cell.value = float(text)
        except ValueError:
            cell.value = text or None
            return
        _, point, decimals = text.partition(".")
        cell.number_format = f"0{point}{'0' * len(decimals)}"

    def delete_row(self, row: int) -> None:
        self.sheet.delete_rows(self.HEADER_ROW + row)

    def copy_row(self, row: int) -> None:
        target = self.row_count() + 1
        self.sheet.insert_rows(self.HEADER_ROW + target)
        for column in range(1, self.sheet.max_column + 1):
            self._copy(
                self.sheet.cell(self.HEADER_ROW + row, column),
                self.sheet.cell(self.HEADER_ROW + target, column),
            )

    def delete_column(self, name: str) -> None:
        position = self.position(name)
        texts = [cell.value for cell in self.sheet["A"]]
        self.sheet.delete_cols(position + 1)
        if position == 0:  # caption and notes are in the first column, too
            last = self.HEADER_ROW + self.row_count()
            for number, text in enumerate(texts, start=1):
                if not self.HEADER_ROW <= number <= last:
                    self.sheet.cell(number, 1).value = text

    def copy_column(self, name: str) -> None:
        position, target = self.position(name) + 1, len(self.headers()) + 1
        for row in range(self.HEADER_ROW, self.HEADER_ROW + self.row_count() + 1):
            self._copy(self.sheet.cell(row, position), self.sheet.cell(row, target))

    @staticmethod
    def _copy(source: Any, target: Any) -> None:
        target.value, target.number_format = source.value, source.number_format

    def _paragraphs(self) -> list[Any]:
        rows = range(self.HEADER_ROW, self.HEADER_ROW + self.row_count() + 1)
        return [cell for cell in self.sheet["A"] if cell.value and cell.row not in rows]

    def replace_text(self, old: str, new: str) -> None:
        cell = next(cell for cell in self._paragraphs() if old in cell.value)
        cell.value = cell.value.replace(old, new, 1)

    def delete_paragraph(self, beginning: str) -> None:
        cell = next(cell for cell in self._paragraphs() if cell.value.startswith(beginning))
        self.sheet.delete_rows(cell.row)

    def add_note(self, text: str) -> None:
        self.sheet.cell(self.sheet.max_row + 1, 1).value = text

    def save(self) -> None:
        self.book.save(self.path)


class EditedWord(EditedTable):
    """The first table of a Word file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.page = Document(str(path))
        self.table = self.page.tables[0]

    def cell(self, row: int, name: str) -> Any:
        """Return a cell by its row in the table and its column's name."""
        return self._cells(row)[self.position(name)]

    def run(self, row: int, name: str) -> Any:
        """Return the only run of a cell."""
        return self.cell(row, name).paragraphs[0].runs[0]

    def _cells(self, row: int) -> Any:
        return self.table.rows[row].cells

    def headers(self) -> list[str]:
        return [cell.text for cell in self._cells(0)]

    def row_count(self) -> int:
        return len(self.table.rows) - 1

    def get_at(self, row: int, column: int) -> str:
        return self._cells(row)[column].text

    def set_at(self, row: int, column: int, text: str) -> None:
        self._cells(row)[column].paragraphs[0].runs[0].text = text

    def delete_row(self, row: int) -> None:
        element = self.table.rows[row]._tr
        element.getparent().remove(element)

    def copy_row(self, row: int) -> None:
        self.table._tbl.append(copy.deepcopy(self.table.rows[row]._tr))

    def delete_column(self, name: str) -> None:
        position = self.position(name)
        for row in self.table.rows:
            row._tr.remove(row._tr.tc_lst[position])

    def copy_column(self, name: str) -> None:
        position = self.position(name)
        for row in self.table.rows:
            row._tr.append(copy.deepcopy(row._tr.tc_lst[position]))

    def replace_text(self, old: str, new: str) -> None:
        runs = [run for paragraph in self.page.paragraphs for run in paragraph.runs]
        run = next(run for run in runs if old in run.text)
        run.text = run.text.replace(old, new, 1)

    def delete_paragraph(self, beginning: str) -> None:
        paragraphs = self.page.paragraphs
        found = next(each for each in paragraphs if each.text.startswith(beginning))
        found._p.getparent().remove(found._p)

    def add_note(self, text: str) -> None:
        self.page.add_paragraph(text)

    def save(self) -> None:
        self.page.save(str(self.path))


EDITORS: dict[str, Callable[[Path], EditedTable]] = {
    "md": EditedMarkdown,
    "tex": EditedLatex,
    "csv": EditedCsv,
    "xlsx": EditedExcel,
    "docx": EditedWord,
}


def open_table(path: Path) -> Any:
    """Open a file to edit its table."""
    return EDITORS[path.suffix.removeprefix(".")](path)
