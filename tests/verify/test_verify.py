"""`bioimg verify`: tables typed by hand, and what a result of the check says."""

import dataclasses
import re
from pathlib import Path

import pytest

from bioimg.errors import UserError
from bioimg.report import documents
from bioimg.report.analysis import Analysis
from bioimg.report.comparison_table import build_comparison
from bioimg.verify.verify import verify_file
from support.example_results import read_analysis, write_report_2023

TABLE_9 = (
    (
        "weights",
        "batch",
        "trained",
        "best val loss (epoch)",
        "test acc. (%)",
        "highest val acc. of any epoch (%)",
    ),
    ("V2", "128", "all layers", "0.1656 (35)", "95.3", "97"),
    ("V1", "128", "all layers", "0.2720 (34)", "87.5", "88.83"),
    ("V2", "32", "all layers", "0.1789 (16)", "94.3", "94.83"),
    ("V1", "32", "head only", "0.3184 (52)", "87.5", "88.83"),
)
"""As the report of 2023 prints it, with two errors.

The row of V1 with batch 128 has numbers of the frozen run, and that run is labelled batch 32.
"""

ERRORS = {
    (2, "test acc. (%)", "87.5", "94.0"),
    (2, "highest val acc. of any epoch (%)", "88.83", "93.5"),
    (4, "batch", "32", "128"),
}

CELL_FINDING = re.compile(
    r".*, row (\d+) \(.*\), (.+): the file says (.+), the results say ([^ ]+)(?: \[.*\])?\."
)
WRONG_CELLS = ("value", "setting", "words", "digits", "empty")


@pytest.fixture(scope="module")
def nine(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    folder = tmp_path_factory.mktemp("results") / "report-2023"
    return read_analysis(write_report_2023(folder))


def as_markdown(path: Path, rows: tuple[tuple[str, ...], ...]) -> Path:
    head, *body = ["| " + " | ".join(row) + " |" for row in rows]
    delimiter = "|---" * len(rows[0]) + "|"
    lines = ["# Results", "", head, delimiter, *body, "", "as above"]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def wrong_cells(path: Path, analysis: Analysis) -> set[tuple[int, str, str, str]]:
    """Return row, column, found and expected number of every cell that disagrees."""
    cells = set()
    for finding in verify_file(path, analysis).errors:
        if finding.code in WRONG_CELLS:
            match = CELL_FINDING.match(finding.text)
            assert match, finding.text
            cells.add((int(match[1]), match[2], match[3], match[4]))
    return cells


def codes(path: Path, analysis: Analysis) -> set[str]:
    return {finding.code for finding in verify_file(path, analysis).errors}


def test_both_errors_of_table_9_are_found(nine: Analysis, tmp_path: Path) -> None:
    assert wrong_cells(as_markdown(tmp_path / "t.md", TABLE_9), nine) == ERRORS


def test_table_typed_by_hand_lacks_rows_and_their_source(nine: Analysis, tmp_path: Path) -> None:
    path = as_markdown(tmp_path / "t.md", TABLE_9[:2])
    assert codes(path, nine) == {
        "missing-column",  # epochs, which tell rows of V2 and batch 32 apart
        "missing-row",
        "interval",
        "missing-warning",
        "missing-fingerprint",
    }
    assert wrong_cells(path, nine) == set()


def test_settings_are_trusted_over_numbers(nine: Analysis, tmp_path: Path) -> None:
    """All numbers are those of the frozen run, so that one wrong setting would explain the row."""
    rows = (TABLE_9[0], ("V1", "128", "all layers", *TABLE_9[4][3:]))
    path = as_markdown(tmp_path / "t.md", rows)
    columns = {column for _, column, _, _ in wrong_cells(path, nine)}
    assert columns == {
        "best val loss (epoch)",
        "test acc. (%)",
        "highest val acc. of any epoch (%)",
    }


def test_finding_reads_as_a_sentence(nine: Analysis, tmp_path: Path) -> None:
    findings = verify_file(as_markdown(tmp_path / "t.md", TABLE_9), nine).findings
    (text,) = [finding.text for finding in findings if finding.code == "setting"]
    place = "the table at line 3, row 4 (V1, 32, head only), batch"
    assert text == f"{place}: the file says 32, the results say 128."


def test_file_from_other_results_is_an_error(nine: Analysis, tmp_path: Path) -> None:
    (path,) = documents.write_table(build_comparison(nine), tmp_path, ["docx"])
    trials = nine.trials.assign(wait_seconds=1.0)
    changed = dataclasses.replace(nine.results, trials=trials)
    assert codes(path, Analysis(changed)) == {"other-results"}


def test_file_without_a_known_table_is_refused(nine: Analysis, tmp_path: Path) -> None:
    path = as_markdown(tmp_path / "t.md", (("animal", "legs"), ("dog", "4")))
    message = r"contains no table with bioimg's headers, such as weights, batch, test acc\."
    with pytest.raises(UserError, match=message):
        verify_file(path, nine)


def test_other_table_beside_a_known_one_is_a_note(nine: Analysis, tmp_path: Path) -> None:
    (path,) = documents.write_table(build_comparison(nine), tmp_path, ["md"])
    path.write_text(f"{path.read_text()}\n| animal | legs |\n|---|---|\n| dog | 4 |\n")
    verification = verify_file(path, nine)
    assert verification.errors == []
    assert [note.code for note in verification.notes] == ["other-table"]


def test_counted_cells_are_those_of_known_columns(nine: Analysis, tmp_path: Path) -> None:
    (path,) = documents.write_table(build_comparison(nine), tmp_path, ["md"])
    assert verify_file(path, nine).compared_cells == 9 * 9
