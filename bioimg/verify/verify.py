"""Check the tables of a file, edited by hand or not, against the results."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bioimg.errors import UserError
from bioimg.report.analysis import Analysis
from bioimg.report.translation import column_header
from bioimg.verify.findings import Finding
from bioimg.verify.parsed_document import ParsedDocument, ParsedTable
from bioimg.verify.readers import read_document
from bioimg.verify.reference import Reference, find_references
from bioimg.verify.table_comparison import TableComparison
from bioimg.verify.text_comparison import Sentence, compare_texts

EXAMPLE_COLUMNS = ("weights", "batch_size", "test_accuracy")


@dataclass(frozen=True)
class Verification:
    """What was compared, and what was found.

    findings:       errors and notes, in the order of the file.
    compared_cells: how many cells were compared with the results.
    """

    findings: tuple[Finding, ...] = ()
    compared_cells: int = 0

    @property
    def errors(self) -> list[Finding]:
        """What the file says, hides or lacks that the results don't support."""
        return [finding for finding in self.findings if finding.level == "error"]

    @property
    def notes(self) -> list[Finding]:
        """What wasn't compared, or was put into other words."""
        return [finding for finding in self.findings if finding.level == "note"]


def verify_file(path: Path, analysis: Analysis) -> Verification:
    """Check every table of a file (.md, .tex, .csv, .docx, .xlsx) against the results.

    These are errors: a cell that is no right rounding of the results, or has words beside its
    number; a removed interval; a row, a column that tells rows apart, a warning or the fingerprint
    of the results that is missing; a row or column that the results don't have; other numbers in
    caption and notes; hidden rows, columns or text; a formula without a value.

    These are allowed: another order of rows and columns, fewer decimals, headers in any of the
    languages, the removal of a column of measures, another beginning of the caption, further
    notes. A caption that says which rows are shown, as of `bioimg report --rows`, needs only these
    rows.

    Raises:
        UserError: there is no such file, it can't be read, it has tracked changes, or no table in
            it is one of bioimg's.
    """
    document = read_document(path)
    comparisons = [_compare_table(table, document, analysis) for table in document.tables]
    known = [comparison for comparison in comparisons if comparison is not None]
    if not known:
        headers = ", ".join(column_header(name, "en") for name in EXAMPLE_COLUMNS)
        raise UserError(
            f"the file {path} contains no table with bioimg's headers, such as {headers}. "
            "Use these headers."
        )
    findings = [*document.findings]
    for table, comparison in zip(document.tables, comparisons, strict=True):
        findings.extend(comparison.findings if comparison else [_other_table(table)])
    sentences = [sentence for each in known for sentence in _report_sentences(each.reference)]
    findings.extend(compare_texts(document.paragraphs, sentences, analysis.digest))
    compared_cells = sum(comparison.compared_cells for comparison in known)
    return Verification(tuple(findings), compared_cells)


def _compare_table(
    table: ParsedTable, document: ParsedDocument, analysis: Analysis
) -> TableComparison | None:
    """Compare a table with the one of the report that it claims to be, if it is one of bioimg's.

    If it may be several, the one that it agrees with best counts.
    """
    captions = document.paragraphs_near(table)
    references = find_references(table, captions, document.paragraphs, analysis)
    comparisons = [TableComparison(table, reference) for reference in references]
    return min(comparisons, key=lambda comparison: comparison.error_count, default=None)


def _other_table(table: ParsedTable) -> Finding:
    text = f"{table.location} wasn't compared: it has no caption and too few headers of the report."
    return Finding("other-table", text, level="note")


def _report_sentences(reference: Reference) -> Iterator[Sentence]:
    """Yield the caption and the notes of a table of the report, in each language."""
    tables = reference.tables
    captions = tuple(table.caption for table in tables)
    yield Sentence("caption", reference.name, captions)
    for check in tables[0].checks:
        texts = tuple(check.text(table.lang) for table in tables)
        yield Sentence(check.level, check.code, texts)
