"""Find the table of the report that a table of a file claims to be."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from bioimg.errors import UserError
from bioimg.report import detail_tables
from bioimg.report.analysis import Analysis
from bioimg.report.architecture import architecture_table
from bioimg.report.comparison_table import BASELINE_STATE, build_comparison
from bioimg.report.table_model import Column, Table
from bioimg.report.translation import LANGUAGES
from bioimg.results.configurations import REPEAT_FIELDS
from bioimg.verify.cell_comparison import leading_number
from bioimg.verify.headers import count_known_headers, find_column, match_columns
from bioimg.verify.parsed_document import ParsedTable
from bioimg.verify.sentences import parse_sentence

MIN_KNOWN_HEADERS = 2
"""A table with fewer known headers, and without a caption of the report, isn't one of bioimg's."""


@dataclass(frozen=True, eq=False)
class Reference:
    """A table of the report in every language, with the same rows and columns in each.

    tables:    the table in each language.
    best_keys: the keys of the trials of the best recipe.
    """

    tables: Sequence[Table]
    best_keys: frozenset[str]

    @property
    def name(self) -> str:
        """The name of the table."""
        return self.tables[0].name

    @property
    def columns(self) -> tuple[Column, ...]:
        """How each column is shown."""
        return self.tables[0].columns

    @cached_property
    def rows(self) -> list["ReferenceRow"]:
        """Every row, with its values and with what is shown in each language."""
        cells_by_language = [table.cells() for table in self.tables]
        rows = []
        for number, record in enumerate(self.tables[0].records()):
            languages = [cells[number] for cells in cells_by_language]
            shown = tuple(zip(*languages, strict=True))
            rows.append(ReferenceRow(record, shown, record.get("key") in self.best_keys))
        return rows


@dataclass(frozen=True, eq=False)
class ReferenceRow:
    """A row of the report.

    record:  its values by column name.
    shown:   the texts of each column, in each language.
    is_best: whether it is that of the best recipe.
    """

    record: Mapping[str, Any]
    shown: Sequence[tuple[str, ...]]
    is_best: bool

    @property
    def is_baseline(self) -> bool:
        """Whether it is that of always answering with the most frequent class."""
        return self.record.get("state") == BASELINE_STATE


def find_references(
    table: ParsedTable, captions: Sequence[str], paragraphs: Sequence[str], analysis: Analysis
) -> Iterator[Reference]:
    """Yield the tables of the report that a table may be: one, if its caption says which.

    Without a caption of the report, those with most of its headers. There are none for a table
    that isn't one of bioimg's.

    Args:
        table: the table of a file.
        captions: the paragraphs near it, the likeliest caption first.
        paragraphs: all paragraphs of the file.
        analysis: the results.
    """
    for caption in captions:
        for name in ("comparison", *detail_tables.TABLE_BUILDERS, "architecture"):
            values = parse_sentence(f"caption.{name}", caption)
            if values is not None:
                yield _build_reference(name, values, table, paragraphs, analysis)
                return
    if count_known_headers(table.headers) < MIN_KNOWN_HEADERS:
        return
    candidates = []
    for name in ("comparison", *detail_tables.TABLE_BUILDERS):
        reference = _build_reference(name, {}, table, paragraphs, analysis)
        known_count = len(match_columns(reference.columns, table.headers))
        candidates.append((known_count, reference))
    highest_count = max(count for count, _ in candidates)
    for known_count, reference in candidates:
        if known_count == highest_count:
            yield reference


def _build_reference(
    name: str,
    caption: Mapping[str, str],
    table: ParsedTable,
    paragraphs: Sequence[str],
    analysis: Analysis,
) -> Reference:
    """Build a table of the report with the options that caption and notes name."""
    if name == "comparison":
        return _build_comparison(caption, table, analysis)
    epoch = _find_number("note.at_epoch", "epoch", paragraphs)
    price = _find_number("note.price", "price", paragraphs)

    def build(lang: str) -> Table:
        if name == "architecture":
            return architecture_table(analysis, lang)
        if name == "at-epoch":
            return detail_tables.epoch_table(analysis, lang, None if epoch is None else int(epoch))
        return detail_tables.build_detail_table(name, analysis, lang, price)

    return _make_reference([build(lang) for lang in LANGUAGES], analysis)


def _find_number(key: str, name: str, paragraphs: Sequence[str]) -> float | None:
    """Return the number of this name in the first paragraph that is a certain note."""
    for paragraph in paragraphs:
        values = parse_sentence(key, paragraph, whole=True)
        if values is not None:
            return leading_number(values[name])
    return None


def _build_comparison(
    caption: Mapping[str, str], table: ParsedTable, analysis: Analysis
) -> Reference:
    """Build the comparison with the rows and the grouping of a caption, and a file's columns.

    A file that shows seeds or folds has one row for each trial.
    """
    rows = _caption_option("caption.selection", "rows", caption.get("selection"))
    fields = _caption_option("caption.grouping", "fields", caption.get("grouping"))
    group_by = fields.split(", ") if fields else []
    single = any(find_column(name, table.headers) is not None for name in REPEAT_FIELDS)

    def build(lang: str, columns: Sequence[str] = ()) -> Table:
        return build_comparison(
            analysis, rows=rows, group_by=group_by, single=single, columns=columns, lang=lang
        )

    try:
        default = build(LANGUAGES[0])
    except UserError as error:
        raise UserError(
            f"the caption (… {rows or fields}) of {table.location} can't be applied: {error}"
        ) from None
    identities = [column.name for column in default.columns if column.identity]
    available = [str(name) for name in default.values.columns]
    shown = match_columns([Column(name=name) for name in available], table.headers)
    # the row of the baseline comes with the score
    columns = [*identities, *(available[number] for number in shown), analysis.test_column]
    columns = list(dict.fromkeys(columns))
    if set(columns) == {column.name for column in default.columns}:
        return _make_reference([default, *map(build, LANGUAGES[1:])], analysis)
    return _make_reference([build(lang, columns) for lang in LANGUAGES], analysis)


def _make_reference(tables: Sequence[Table], analysis: Analysis) -> Reference:
    best_runs = [] if analysis.best is None else analysis.best.runs["key"]
    return Reference(tables, frozenset(best_runs))


def _caption_option(key: str, name: str, text: str | None) -> str | None:
    """Return what a part of the caption says, up to the end of its sentence."""
    values = parse_sentence(key, text or "")
    if values is None:
        return None
    sentence, _, _ = values[name].partition(". ")
    return sentence.strip().removesuffix(".")
