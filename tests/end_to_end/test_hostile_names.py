"""Names from the data go through the whole program: nothing in them runs or steers a terminal."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from openpyxl import load_workbook
from rich.console import Console

from bioimg.config import TrialConfig
from bioimg.progress.console import ProgressTable, print_plain
from bioimg.report.table_model import sanitise_text
from bioimg.results.result_store import read_results
from bioimg.verify.readers import read_document
from support import PROJECT
from support.experiments import GRID_PROGRAM, QUICK_FLAGS, run_grid_program
from support.html_elements import Elements
from support.image_folders import write_class_folders

NAMES = [
    "<script>document.title=1",
    '<img src=x onerror="alert(1)">',
    "$(touch pwned)",
    "`touch pwned`; touch pwned #",
    '=HYPERLINK("http:example.org","a")',
    r"\input{secret}\write18{touch pwned}",
    "a|b **c** [d](javascript:alert(1))",
    "[red]{{ 7*7 }}",
    "\x1b]0;title\x07\x1b[2J",
]

BIOIMG = "import sys; from bioimg.cli.main import main; sys.exit(main())"
FORMATS = ("md", "csv", "tex", "xlsx", "docx")


def run_program(folder: Path, *arguments: str) -> str:
    """Run a Python program in a folder, with a cache there, and return its output."""
    settings = {"PYTHONPATH": str(PROJECT), "BIOIMG_CACHE": str(folder / "cache")}
    program = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
    )
    assert program.returncode == 0, program.stderr
    return program.stdout


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run a grid of one epoch on classes with such names; whatever ran would leave a file."""
    folder = tmp_path_factory.mktemp("hostile")
    write_class_folders(folder / "data", **dict.fromkeys(NAMES, 15))
    output = run_program(
        folder, str(GRID_PROGRAM), "--data", "data", *QUICK_FLAGS, "--out", "results"
    )
    assert "\x1b" not in output
    run_program(folder, "-c", BIOIMG, "report", "results", "--tables", "all", "--format", *FORMATS)
    assert "1 completed" in run_program(folder, "-c", BIOIMG, "status", "results")
    return folder / "results"


@pytest.mark.nightly
def test_every_table_shows_hostile_names_as_they_are(results):
    assert read_results(results).manifest["data"]["classes"] == sorted(NAMES)
    expected = [sanitise_text(name).strip() for name in sorted(NAMES)]
    for form in FORMATS:
        (table,) = read_document(results / "report" / f"per-class.{form}").tables
        column = table.headers.index("class")
        assert [row[column].strip() for row in table.texts()] == expected


@pytest.mark.nightly
def test_page_has_no_element_and_no_link_from_the_data(results):
    page = Elements((results / "report" / "report.html").read_text(encoding="utf-8"))
    assert len(page.named("script")) == 2, "the program's own, and the numbers that it reads"
    for attributes, _ in page.named("img"):
        assert not [name for name in attributes if name.startswith("on")]
    for attributes, _ in page.named("a"):
        assert str(attributes.get("href")).startswith("#")


@pytest.mark.nightly
def test_spreadsheet_finds_no_formula_in_hostile_names(results):
    for path in (results / "report").glob("*.xlsx"):
        cells = [cell for row in load_workbook(path).worksheets[0].iter_rows() for cell in row]
        assert "f" not in {cell.data_type for cell in cells}
    for path in (results / "report").glob("*.csv"):
        assert '"=' not in path.read_text(encoding="utf-8-sig")


@pytest.mark.nightly
def test_audit_shows_hostile_names_without_control_characters(results):
    output = run_program(results.parent, "-c", BIOIMG, "data", "data", "--contact-sheet", "x.png")
    assert "[red]{{ 7*7 }}" in output
    assert "\x1b" not in output
    assert "\ufffd]0;title" in output
    assert (results.parent / "x.png").stat().st_size > 1000


@pytest.mark.nightly
def test_nothing_in_hostile_names_was_executed(results):
    """The last test of these results."""
    files = {path.name for path in results.parent.iterdir()}
    assert files <= {"data", "results", "cache", "x.png"}


def test_live_table_shows_a_setting_as_written():
    trial = TrialConfig(group_pattern="HE-(..)[bold]")
    console = Console(file=io.StringIO(), width=120)
    console.print(ProgressTable([trial], ("group_pattern",), {}, console, "accuracy").render())
    assert "HE-(..)[bold]" in console.file.getvalue()


def test_console_line_is_printed_as_is_without_wrapping():
    console = Console(file=io.StringIO(), width=20)
    print_plain(console, "tiles/[bold]a[/bold] :cat: 12 and more than that")
    assert console.file.getvalue() == "tiles/[bold]a[/bold] :cat: 12 and more than that\n"


def test_error_shows_hostile_names_without_control_characters(tmp_path, capsys):
    write_class_folders(tmp_path / "data", **{NAMES[-1]: 20, "b": 1})
    assert run_grid_program("--data", tmp_path / "data", *QUICK_FLAGS) == 2
    error = capsys.readouterr().err
    assert "error: " in error
    assert "\x1b" not in error
