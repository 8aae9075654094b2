"""`bioimg verify` names every wrong cell, in every format that can be edited by hand."""

import dataclasses
from itertools import product
from pathlib import Path

import pytest
from docx import Document
from openpyxl import load_workbook

from bioimg.config import TrialConfig
from bioimg.errors import UserError
from bioimg.report import detail_tables, documents
from bioimg.report.analysis import Analysis
from bioimg.report.comparison_table import build_comparison
from bioimg.report.presets import report_2023_tables
from bioimg.results import result_store
from bioimg.results.result_store import Results
from bioimg.verify.verify import VerificationResult, verify_file
from support.example_results import (
    V1,
    V2,
    epoch_rows,
    prediction_rows,
    trial_row,
    write_report_2023,
    write_results,
)

TABLE_9 = (
    ("weights", "batch", "frozen", "best val loss (epoch)", "test acc. (%)", "best val acc. (%)"),
    ("V2", "128", "no", "0.1656 (35)", "95.3", "97"),
    ("V1", "128", "no", "0.2720 (34)", "87.5", "88.83"),
    ("V2", "32", "no", "0.1789 (16)", "94.3", "94.83"),
    ("V1", "32", "yes", "0.3184 (52)", "87.5", "88.83"),
)
"""As the report of 2023 prints it, with two errors.

The row of V1 with batch 128 has numbers of the frozen run, and that run is labelled batch 32.
"""

ERRORS = {
    (2, "test acc. (%)", "87.5", "94.0"),
    (2, "best val acc. (%)", "88.83", "93.5"),
    (4, "batch", "32", "128"),
}


@pytest.fixture
def nine(tmp_path: Path) -> Results:
    return result_store.read_results(write_report_2023(tmp_path / "report-2023"))


def find_mismatches(path: Path, results: Results) -> set[tuple[int, str, str, str]]:
    """Return row, column, found and expected text (without interval) of every mismatch."""
    return {
        (
            int(mismatch.row.split()[0]),
            mismatch.column,
            mismatch.found,
            mismatch.expected.split(" [")[0].split(" (")[0],
        )
        for mismatch in verify_file(path, results).mismatches
    }


def as_markdown(path: Path, rows: tuple[tuple[str, ...], ...]) -> Path:
    head, *body = ["| " + " | ".join(row) + " |" for row in rows]
    path.write_text(
        "\n".join(["# Results", "", head, "|---" * len(rows[0]) + "|", *body, "", "as above"]),
        encoding="utf-8",
    )
    return path


def as_latex(path: Path, rows: tuple[tuple[str, ...], ...]) -> Path:
    body = "\n".join(
        " & ".join(cell.replace("%", r"\%") for cell in row) + r" \\ \hline" for row in rows
    )
    lines = [r"\begin{tabular}{|l|c|c|c|c|c|} \hline % {mine}", body, r"\end{tabular}"]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def as_csv(path: Path, rows: tuple[tuple[str, ...], ...]) -> Path:
    path.write_text(
        "\n".join(
            ";".join(cell.replace(".", ",") if "." in cell[:3] else cell for cell in row)
            for row in rows
        )
    )
    return path


def as_word(path: Path, rows: tuple[tuple[str, ...], ...]) -> Path:
    page = Document()
    page.add_paragraph("Table 9")
    grid = page.add_table(rows=len(rows), cols=len(rows[0]))
    for line, row in zip(grid.rows, rows, strict=True):
        for cell, text in zip(line.cells, row, strict=True):
            cell.text = text
    page.save(str(path))
    return path


def as_excel(path: Path, rows: tuple[tuple[str, ...], ...]) -> Path:
    from openpyxl import Workbook

    book = Workbook()
    sheet = book.active
    assert sheet is not None
    for row in rows:
        sheet.append([float(cell) if cell.replace(".", "").isdigit() else cell for cell in row])
    book.save(path)
    return path


WRITERS = {
    ".md": as_markdown,
    ".tex": as_latex,
    ".csv": as_csv,
    ".docx": as_word,
    ".xlsx": as_excel,
}


@pytest.mark.parametrize("form", list(WRITERS))
def test_both_errors_of_table_9_are_found(nine: Results, tmp_path: Path, form: str) -> None:
    path = WRITERS[form](tmp_path / f"table-9{form}", TABLE_9)
    mismatches = {
        (row, column, found.replace(",", "."), expected)
        for row, column, found, expected in find_mismatches(path, nine)
    }
    assert mismatches == ERRORS


def test_table_9_without_its_errors_agrees(nine: Results, tmp_path: Path) -> None:
    rows = (
        *TABLE_9[:2],
        ("V1", "128", "no", "0.2720 (34)", "94", "93.5"),
        TABLE_9[3],
        ("V1", "128", "yes", *TABLE_9[4][3:]),
    )
    verification = verify_file(as_markdown(tmp_path / "t.md", rows), nine)
    assert verification.mismatches == ()
    assert verification.compared_cells == 24
    assert verification.unknown_headers == ()


def test_chinese_headers_are_known(nine: Results, tmp_path: Path) -> None:
    head = ("預訓練權重", "批次大小", "凍結", "最佳驗證損失", "測試準確率", "最佳驗證準確率 (%)")
    rows = (head, *((*row[:2], {"no": "否", "yes": "是"}[row[2]], *row[3:]) for row in TABLE_9[1:]))
    assert {
        mismatch[0] for mismatch in find_mismatches(as_markdown(tmp_path / "t.md", rows), nine)
    } == {2, 4}


def test_existing_settings_are_trusted_over_numbers(nine: Results, tmp_path: Path) -> None:
    """All numbers are those of the frozen run, so that one wrong setting would explain the row."""
    rows = (TABLE_9[0], ("V1", "128", "no", *TABLE_9[4][3:]))
    columns = {
        column for _, column, _, _ in find_mismatches(as_markdown(tmp_path / "t.md", rows), nine)
    }
    assert columns == {"best val loss (epoch)", "test acc. (%)", "best val acc. (%)"}


def test_mismatch_reads_as_a_sentence(nine: Results, tmp_path: Path) -> None:
    mismatch = verify_file(as_markdown(tmp_path / "t.md", TABLE_9), nine).mismatches[-1]
    assert str(mismatch) == (
        "the table at line 3, row 4 (V1, 32, yes), batch: the file says 32, the results say 128."
    )


@pytest.mark.parametrize(
    ("form", "lang"),
    [*((form, "en") for form in ("md", "tex", "csv", "docx", "xlsx")), ("md", "zh-TW")],
)
def test_the_nine_tables_agree_with_their_results(
    nine: Results, tmp_path: Path, form: str, lang: str
) -> None:
    for table in report_2023_tables(Analysis(nine), lang)[1:]:
        (path,) = documents.write_table(table, tmp_path, [form])
        verification = verify_file(path, nine)
        cells = len(table.values) * len(table.columns)
        assert verification == VerificationResult(compared_cells=cells)


@pytest.fixture
def grid(tmp_path: Path) -> Results:
    """Two seeds of each of four configurations with predictions, of which one was stopped."""
    rows, images, epochs = [], [], []
    for n, (weights, batch, seed) in enumerate(product((V1, V2), (32, 64), (0, 1))):
        config = TrialConfig(weights=weights, batch_size=batch, seed=seed)
        wrong = list(range(n * 11, n * 20))
        if n == 7:
            rows.append(trial_row(config, status="stopped", epochs_run=6, train_seconds=9.0))
            continue
        rows.append(
            trial_row(
                config,
                test_accuracy=1 - len(wrong) / 600,
                best_val_loss=0.1 * (n + 1),
                train_seconds=70.0,
            )
        )
        images += prediction_rows(config.key, wrong)
        epochs += epoch_rows(config.key, [0.5, 0.1, 0.3], [0.7, 0.9, 0.8 + n / 100])
    return result_store.read_results(write_results(tmp_path / "grid", rows, epochs, images))


@pytest.mark.parametrize("form", ["md", "xlsx"])
def test_every_report_table_agrees_with_its_results(
    grid: Results, tmp_path: Path, form: str
) -> None:
    tables = [
        build_comparison(Analysis(grid)),
        build_comparison(Analysis(grid), single=True),
        build_comparison(Analysis(grid), group_by=["weights"]),
    ]
    for table in [*tables, *detail_tables.build_detail_tables(Analysis(grid))]:
        (path,) = documents.write_table(table, tmp_path, [form])
        verification = verify_file(path, grid)
        assert verification.mismatches == (), table.name
        assert verification.unknown_headers == (), table.name


def test_selection_with_another_best_agrees(nine: Results, tmp_path: Path) -> None:
    table = build_comparison(Analysis(nine), rows='weights == "IMAGENET1K_V1"')
    (path,) = documents.write_table(table, tmp_path, ["md"])
    assert "best" in path.read_text()
    assert verify_file(path, nine).mismatches == ()


@pytest.mark.parametrize(
    ("old", "new", "column"),
    [
        ("93.5 [91.2, 95.2]", "93.6 [91.2, 95.2]", "test acc. (%)"),
        ("93.5 [91.2, 95.2]", "93.5 [91.2, 95.9]", "test acc. (%)"),
        ("0.2404 (28/50)", "0.2404 (29/50)", "best val loss (epoch)"),
        ("0.0113", "0.0131", "final train loss"),
        ("16:15", "16:51", "time (min:s)"),
        ("| – | – | 0.2720", "| 0.01 | – | 0.2720", "final train loss"),
        ("tie", "better", "standing"),
    ],
)
def test_mistyped_cell_is_named(
    nine: Results, tmp_path: Path, old: str, new: str, column: str
) -> None:
    (path,) = documents.write_table(build_comparison(Analysis(nine)), tmp_path, ["md"])
    path.write_text(path.read_text().replace(old, new, 1))
    assert [mismatch.column for mismatch in verify_file(path, nine).mismatches] == [column]


def test_truncated_digits_are_no_rounding(nine: Results, tmp_path: Path) -> None:
    head = ("weights", "batch", "frozen", "epochs", "best val loss")
    for loss, right in (("0.17", True), ("0.166", True), ("0.165", False), ("0.1656", True)):
        path = as_markdown(tmp_path / "t.md", (head, ("V2", "128", "no", "40", loss)))
        assert (verify_file(path, nine).mismatches == ()) is right


def test_cell_edited_in_excel_is_named(nine: Results, tmp_path: Path) -> None:
    (path,) = documents.write_table(build_comparison(Analysis(nine)), tmp_path, ["xlsx"])
    book = load_workbook(path)
    book.worksheets[0].cell(4, 9).value = 93.2
    book.save(path)
    (mismatch,) = verify_file(path, nine).mismatches
    assert (mismatch.location, mismatch.column, mismatch.found, mismatch.expected) == (
        *("the sheet 'comparison'", "best val acc. (%)", "93.2", "92.8"),
    )


def test_unknown_columns_are_named_and_blanks_skipped(nine: Results, tmp_path: Path) -> None:
    rows = (
        ("weights", "batch", "frozen", "epochs", "test acc.", "my remark"),
        ("V1", "32", "no", "50", "", "good"),
    )
    verification = verify_file(as_markdown(tmp_path / "t.md", rows), nine)
    assert verification.mismatches == ()
    assert verification.unknown_headers == ("my remark",)


def test_file_from_other_results_is_noticed(nine: Results, tmp_path: Path) -> None:
    (path,) = documents.write_table(build_comparison(Analysis(nine)), tmp_path, ["docx"])
    changed = dataclasses.replace(nine, trials=nine.trials.assign(wait_seconds=1.0))
    verification = verify_file(path, changed)
    assert verification.mismatches == ()
    assert verification.foreign_digest is not None
    assert len(verification.foreign_digest) == 10


def test_file_without_a_known_table_is_named(nine: Results, tmp_path: Path) -> None:
    with pytest.raises(
        UserError,
        match=r"contains no table with bioimg's headers, such as weights, batch, test acc\.",
    ):
        verify_file(as_markdown(tmp_path / "t.md", (("animal", "legs"), ("dog", "4"))), nine)
