"""Find the columns of a table by their headers, in any language."""

import functools
import re
from collections.abc import Iterable, Sequence

from bioimg.report.table_model import Column, sanitise_text
from bioimg.report.translation import LANGUAGES, column_header, translated_columns

UNIT_PATTERN = re.compile(r"\s*[(（][^)）]*[)）]\s*$")
NUMBER_PATTERN = re.compile(r"[-−+]?\d+(?:[.,]\d+)?")


def match_columns(columns: Sequence[Column], headers: Sequence[str]) -> dict[int, int]:
    """Return the position in a file of each column that the file has, by the column's number.

    Columns with the same header, as of two classes whose names look alike, are matched in order.
    """
    positions: dict[int, int] = {}
    for normalise in (_same_case, _normalise):
        for number, column in enumerate(columns):
            known = set(map(normalise, known_headers(column)))
            for position, header in enumerate(headers):
                is_free = number not in positions and position not in positions.values()
                if is_free and normalise(header) in known:
                    positions[number] = position
    return positions


def has_header(column: Column, header: str) -> bool:
    """Return True if a column may have this header."""
    return _normalise(header) in map(_normalise, known_headers(column))


def find_column(name: str, headers: Sequence[str]) -> int | None:
    """Return the position of a column of this name, or None."""
    return match_columns([Column(name=name)], headers).get(0)


def known_headers(column: Column) -> list[str]:
    """Return the headers that a column may have.

    These are its title (a class), or else its name and its header in each language, with its unit
    or without.
    """
    if column.title is not None:
        return [column.title]
    names = [column.name, column.name.replace("_", " ")]
    for lang in LANGUAGES:
        header = column_header(column.name, lang)
        names += [header, UNIT_PATTERN.sub("", header)]
    return names


def is_header_row(texts: Iterable[str]) -> bool:
    """Return True if a row holds two or more known headers, and no number."""
    filled = [text for text in texts if text]
    if any(NUMBER_PATTERN.fullmatch(text) for text in filled):
        return False
    return count_known_headers(filled) > 1


def count_known_headers(texts: Iterable[str]) -> int:
    """Return how many texts are headers of the report, in any language."""
    return sum(_normalise(text) in _translated_headers() for text in texts)


@functools.cache
def _translated_headers() -> frozenset[str]:
    headers: list[str] = []
    for name in translated_columns():
        headers += known_headers(Column(name=name))
    return frozenset(map(_normalise, headers))


def _same_case(header: str) -> str:
    return sanitise_text(header).strip()


def _normalise(header: str) -> str:
    return _same_case(header).casefold()
