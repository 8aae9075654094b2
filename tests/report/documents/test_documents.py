"""Tables as files: whatever a name contains, every format is valid, inert and reads back equal."""

import csv
import dataclasses
import html.parser
import json
import re
import shutil
import subprocess
import zipfile
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from docx import Document
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openpyxl import load_workbook

from bioimg.config import TrialConfig
from bioimg.errors import UserError
from bioimg.report import detail_tables, documents
from bioimg.report.checks import note
from bioimg.report.comparison_table import build_comparison
from bioimg.report.documents import csv_file, html_file, latex, markdown
from bioimg.report.table_model import Column, Table, sanitise_text
from bioimg.verify.readers import read_document
from support.example_results import (
    prediction_rows,
    read_analysis,
    trial_row,
    write_report_2023,
    write_results,
)

NASTY = {
    "a formula": '=HYPERLINK("http://evil.example","click")',
    "another formula": "@SUM(1+1)*cmd|' /C calc'!A0",
    "plus": "+1",
    "minus": "-1",
    "a full-width formula": "＝1+1",
    "a script": "<script>alert(1)</script>",
    "an image": "<img src=x onerror=alert(1)>",
    "a border": "a|b",
    "latex": r"100%_a&b #1 $x^2$ ~{y} \input{/etc/passwd}",
    "markdown": "*a* _b_ `c` [d](http://evil.example) ![e](f) # g",
    "entities": "&lt;b&gt; &#35; &amp;amp;",
    "a long name": "x" * 5000,
    "many words": "word " * 400,
    "right to left": "سرطان \u202eevil\u202c שלום",
    "control characters": "a\x00b\x07c\x1b[31m",
    "lines": "a\nb\r\nc\td",
    "quotes": "\"a\", 'b'; c",
    "a backslash at the end": "a\\",
    "a comment": "# a",
    "emoji and Chinese": "腫瘤 🧫 Ångström",
    "blank": " ",
}
every_name = pytest.mark.parametrize("name", list(NASTY.values()), ids=list(NASTY))
READABLE = ("md", "csv", "tex", "xlsx", "docx")


def a_table(name: str) -> Table:
    """A table with a name from the data in a header, a setting, a cell, the caption and a note."""
    columns = (
        Column(name="class", identity=True),
        Column(name="recall", kind="share", decimals=1, interval=True),
        Column(name="n", kind="count", title=name),
        Column(name="difference", kind="points", decimals=1),
    )
    rows = {
        "class": [name, "plain"],
        "recall": [0.5, None],
        "recall_low": [0.4, None],
        "recall_high": [0.6, None],
    }
    values = pd.DataFrame({**rows, "n": [3, 40], "difference": [-0.013, 0.2]})
    checks = (note("split", split=sanitise_text(name)), note("source", fingerprint="0123456789"))
    return Table(
        name="t",
        values=values,
        columns=columns,
        caption=sanitise_text(f"On {name}"),
        checks=checks,
        results_digest="0123456789",
    )


@every_name
@pytest.mark.parametrize("form", READABLE)
def test_written_tables_read_back_equal(tmp_path: Path, form: str, name: str) -> None:
    table = a_table(name)
    (path,) = documents.write_table(table, tmp_path, [form])
    document = read_document(path)
    (parsed,) = document.tables
    assert parsed.headers == [header.strip() for header in table.headers]
    expected = [[cell.strip() for cell in row] for row in table.cells()]
    if form == "xlsx":  # numbers stay numbers there
        expected = [[cell.replace("−", "-") for cell in row] for row in expected]
    assert parsed.texts() == expected
    assert document.paragraphs[-1] == "Made by bioimg from results 0123456789."


@every_name
def test_csv_has_no_formula_and_pandas_reads_it(tmp_path: Path, name: str) -> None:
    path = tmp_path / "t.csv"
    csv_file.write_table(a_table(name), path)
    for separator in ",;\t":
        for row in csv.reader(
            path.read_text(encoding="utf-8-sig").splitlines(), delimiter=separator
        ):
            assert not [
                cell for cell in row if re.match(r"\s*[=+\-@＝＋－＠]", cell) and separator == ","
            ]
            if row and row[0].startswith("#"):
                assert not [cell for cell in row if re.match(r"\s*[=+\-@＝＋－＠]", cell)]
    frame = pd.read_csv(path, comment="#", encoding="utf-8-sig")
    assert frame.shape == (2, 4)


@every_name
def test_excel_has_no_formula_and_no_link(tmp_path: Path, name: str) -> None:
    path = tmp_path / "t.xlsx"
    documents.write_table(a_table(name), tmp_path, ["xlsx"])
    sheet = load_workbook(path).worksheets[0]
    cells = [cell for row in sheet.iter_rows() for cell in row if cell.value is not None]
    assert {cell.data_type for cell in cells} <= {"s", "n"}
    assert not [cell for cell in cells if cell.hyperlink]
    assert all(cell.quotePrefix for cell in cells if str(cell.value).startswith("="))
    with zipfile.ZipFile(path) as parts:
        assert not re.search(rb"<f[ >]", parts.read("xl/worksheets/sheet1.xml"))


class Tags(html.parser.HTMLParser):
    """The tags, attributes and texts of a page, as a browser would see them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.text: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@every_name
def test_html_shows_names_as_text_only(name: str) -> None:
    tags = Tags(html_file.render_figure(a_table(name)))
    plain_tags = Tags(html_file.render_figure(a_table("plain")))
    assert tags.tags == plain_tags.tags
    assert tags.attributes == plain_tags.attributes
    assert sanitise_text(name) in tags.text or not sanitise_text(name)
    assert '<td dir="auto"' in html_file.render_figure(a_table(name))


@every_name
def test_markdown_keeps_its_shape_with_any_name(name: str) -> None:
    lines = markdown.render_markdown(a_table(name)).splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert [len(re.findall(r"(?<!\\)(?:\\\\)*\|", row)) for row in rows] == [5] * 4
    text = "\n".join(lines)
    assert "<" not in text
    assert "](" not in text.replace(r"\](", "")
    assert not re.search(r"(?<!\\)(?:\\\\)*[`$]", text)


@every_name
def test_latex_has_no_command_from_names(name: str) -> None:
    text = latex.render_latex(a_table(name)).replace("\\\\", "")
    assert r"\input{" not in text
    known = set(
        re.findall(
            r"\\([a-zA-Z]+)",
            latex.render_latex(a_table("two words")) + "".join(latex.ESCAPE_BY_CHARACTER.values()),
        )
    )
    assert set(re.findall(r"\\([a-zA-Z]+)", text)) <= known | {"shortstack"}
    body = text.replace(r"\{", "").replace(r"\}", "")
    assert body.count("{") == body.count("}")


@every_name
def test_word_file_holds_the_text(tmp_path: Path, name: str) -> None:
    documents.write_table(a_table(name), tmp_path, ["docx"])
    page = Document(str(tmp_path / "t.docx"))
    assert page.tables[0].rows[1].cells[0].text.strip() == sanitise_text(name).strip()
    assert page.paragraphs[0].style is not None
    assert page.paragraphs[0].style.name == "Caption"


@every_name
def test_parquet_holds_raw_values_and_whole_names(tmp_path: Path, name: str) -> None:
    documents.write_table(a_table(name), tmp_path, ["parquet"])
    table = pq.read_table(tmp_path / "t.parquet")
    assert table["class"].to_pylist()[0] == name
    assert table["recall"].to_pylist() == [0.5, None]
    assert (
        json.loads(table.schema.metadata[b"notes"])[-1] == "Made by bioimg from results 0123456789."
    )


@settings(
    max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(name=st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_any_name_survives_markdown_csv_and_latex(tmp_path: Path, name: str) -> None:
    table = a_table(name)
    for form in ("md", "csv", "tex"):
        (path,) = documents.write_table(table, tmp_path, [form])
        (parsed,) = read_document(path).tables
        assert [header.strip() for header in parsed.headers] == [
            header.strip() for header in table.headers
        ]
        assert [row[0].strip() for row in parsed.texts()] == [sanitise_text(name).strip(), "plain"]
        assert [row[1:] for row in parsed.texts()] == [row[1:] for row in table.cells()]


@pytest.mark.parametrize("sign", ["*", "["])
def test_latex_rows_are_no_argument_of_line_breaks(sign: str) -> None:
    table = a_table(f"{sign}a]")
    second = dataclasses.replace(table, values=table.values.iloc[::-1])
    assert not re.search(r"\\\\\s*[*\[]", latex.render_latex(second))


def compile_latex(folder: Path, source: str) -> subprocess.CompletedProcess[str]:
    engine = "xelatex" if "program = xelatex" in source else "pdflatex"
    if not shutil.which(engine):
        pytest.skip(
            f"{engine} isn't installed "
            "(Debian: texlive-latex-base, texlive-latex-recommended, texlive-xetex)"
        )
    packages = r"\usepackage{booktabs,graphicx,longtable}"
    page = rf"\documentclass{{article}}{packages}\begin{{document}}\input{{t}}\end{{document}}"
    (folder / "page.tex").write_text(page)
    (folder / "t.tex").write_text(source)
    command = [engine, "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "page.tex"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace")


@pytest.mark.nightly
@every_name
def test_latex_compiles_with_any_name(tmp_path: Path, name: str) -> None:
    process = compile_latex(tmp_path, latex.render_latex(a_table(name)))
    assert process.returncode == 0, process.stdout[-1500:]


@pytest.mark.nightly
@pytest.mark.parametrize("lang", ["en", "zh-TW"])
def test_latex_compiles_as_float_and_longtable(tmp_path: Path, lang: str) -> None:
    results = read_analysis(write_report_2023(tmp_path / "results"))
    long = detail_tables.best_differences_table(read_analysis(many(tmp_path / "many", 60)), lang)
    assert len(long.values) > latex.ROWS_PER_PAGE
    source = "\n".join(
        latex.render_latex(table) for table in (build_comparison(results, lang=lang), long)
    )
    process = compile_latex(tmp_path, source)
    assert process.returncode == 0, process.stdout[-1500:]
    assert (tmp_path / "page.pdf").stat().st_size > 10_000


def many(path: Path, count: int) -> Path:
    rows = [
        trial_row(TrialConfig(batch_size=n + 1), test_accuracy=0.9, best_val_loss=0.1 + n)
        for n in range(count)
    ]
    return write_results(path, rows)


@pytest.mark.nightly
@pytest.mark.parametrize("form", ["docx", "xlsx", "csv"])
def test_libreoffice_opens_written_files(tmp_path: Path, form: str) -> None:
    office = shutil.which("soffice")
    if not office:
        pytest.skip(
            "LibreOffice isn't installed (Debian: libreoffice-writer-nogui, libreoffice-calc-nogui)"
        )
    name = NASTY["a formula"]
    documents.write_table(a_table(name), tmp_path, [form])
    to = "txt:Text" if form == "docx" else "csv:Text - txt - csv (StarCalc):44,34,76"
    home = f"-env:UserInstallation=file://{tmp_path}/home"
    command = [
        office,
        home,
        "--headless",
        "--convert-to",
        to,
        "--outdir",
        str(tmp_path / "out"),
        str(tmp_path / f"t.{form}"),
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=240)
    (converted,) = (tmp_path / "out").iterdir()
    text = converted.read_text(encoding="utf-8-sig")
    assert "HYPERLINK" in text  # the text itself, not what it would compute
    assert "50.0 [40.0, 60.0]" in text


def test_excel_numbers_are_shown_rounded_but_whole(tmp_path: Path) -> None:
    nine = read_analysis(write_report_2023(tmp_path / "results"))
    table = build_comparison(nine, columns=["weights", "final_val_accuracy"])
    documents.write_table(table, tmp_path, ["xlsx"])
    sheet = load_workbook(tmp_path / "comparison.xlsx").worksheets[0]
    cell = sheet.cell(4, 2)
    assert sheet.cell(3, 2).value == "val acc. of the last epoch (%)"
    assert cell.value == pytest.approx(91.83)
    assert cell.number_format == "0.0"


@pytest.mark.parametrize("form", documents.TABLE_FORMATS)
@pytest.mark.parametrize("status", ["empty", "failed"])
def test_results_without_completed_trials_make_a_table(
    tmp_path: Path, form: str, status: str
) -> None:
    rows = (
        []
        if status == "empty"
        else [trial_row(TrialConfig(), status="failed", error="=cmd|'/C calc'!A0 <b>")]
    )
    results = read_analysis(write_results(tmp_path / "results", rows))
    documents.write_table(build_comparison(results), tmp_path, [form])
    assert (tmp_path / f"comparison.{form}").stat().st_size > 100
    if form in READABLE and rows:
        (parsed,) = read_document(tmp_path / f"comparison.{form}").tables
        assert parsed.texts()[0][-2] == "failed: =cmd|'/C calc'!A0 <b>"


def test_class_names_survive_in_headers(tmp_path: Path) -> None:
    config = TrialConfig()
    classes = list(NASTY.values())[:6]
    results = read_analysis(
        write_results(
            tmp_path / "results",
            [trial_row(config, test_accuracy=1.0, best_val_loss=0.1)],
            predictions=prediction_rows(config.key),
            classes=classes,
        )
    )
    for table in (detail_tables.per_class_table(results), detail_tables.confusion_table(results)):
        for path in documents.write_table(table, tmp_path, READABLE):
            assert read_document(path).tables[0].headers == table.headers


def test_unknown_format_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="the value of `format` is 'doc', but must be one of: md, csv"
    ):
        documents.write_table(a_table("x"), tmp_path, ["doc"])


@pytest.mark.parametrize("form", ["xlsx", "docx"])
def test_broken_file_is_named(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"t.{form}"
    path.write_bytes(b"PK\x03\x04 half a zip")
    with pytest.raises(UserError, match=f"can't be read as .{form}"):
        read_document(path)


def test_unreadable_kinds_and_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"but must be one of: \.md, \.csv"):
        read_document(tmp_path / "t.pdf")
    with pytest.raises(
        UserError, match=r"the value of `file` is '.*t\.md', but there is no such file\. Name"
    ):
        read_document(tmp_path / "t.md")
