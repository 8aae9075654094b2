"""Names from the data go through the whole program, on real files, and stay names: nothing runs, nothing steers a terminal."""

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
from bioimg.report import documents
from bioimg.report.table_model import sanitise_text
from bioimg.results.result_store import read_results
from support.experiments import GRID_PROGRAM, QUICK_FLAGS
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


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A grid of one epoch on classes with such names, run in a folder in which anything executed would leave a file."""
    place = tmp_path_factory.mktemp("hostile")
    write_class_folders(place / "data", **dict.fromkeys(NAMES, 15))
    said = run(place, str(GRID_PROGRAM), "--data", "data", *QUICK_FLAGS, "--out", "results")
    formats = ("md", "csv", "tex", "xlsx", "docx")
    run(place, "-c", BIOIMG, "report", "results", "--tables", "all", "--format", *formats)
    assert "1 completed" in run(place, "-c", BIOIMG, "status", "results")
    assert "\x1b" not in said
    return place / "results"


def run(place: Path, *arguments: str) -> str:
    """What a Python program prints that runs there."""
    project = {"PYTHONPATH": str(GRID_PROGRAM.parents[1]), "BIOIMG_CACHE": str(place / "cache")}
    ended = subprocess.run(
        [sys.executable, *arguments],
        cwd=place,
        env={**os.environ, **project},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.mark.nightly
def test_every_table_says_the_names_as_they_are(results):
    assert read_results(results).manifest["data"]["classes"] == sorted(NAMES)
    for form in ("md", "csv", "tex", "xlsx", "docx"):
        (table,) = documents.read_tables(results / "report" / f"per-class.{form}")
        place = table.headers.index("class")
        assert [row[place].strip() for row in table.rows] == [
            sanitise_text(name).strip() for name in sorted(NAMES)
        ]


@pytest.mark.nightly
def test_the_page_has_no_element_and_no_link_of_the_data(results):
    seen = Elements((results / "report" / "report.html").read_text(encoding="utf-8"))
    assert len(seen.named("script")) == 2, "the program's own, and the numbers that it reads"
    assert not [
        name for attributes, _ in seen.named("img") for name in attributes if name.startswith("on")
    ]
    assert not [
        href
        for attributes, _ in seen.named("a")
        if not str(href := attributes.get("href")).startswith("#")
    ]


@pytest.mark.nightly
def test_a_spreadsheet_finds_no_formula(results):
    for path in (results / "report").glob("*.xlsx"):
        cells = [cell for row in load_workbook(path).worksheets[0].iter_rows() for cell in row]
        assert "f" not in {cell.data_type for cell in cells}
    for path in (results / "report").glob("*.csv"):
        assert '"=' not in path.read_text(encoding="utf-8-sig")


@pytest.mark.nightly
def test_the_audit_shows_the_names_and_what_steers_a_terminal_as_a_sign(results):
    said = run(results.parent, "-c", BIOIMG, "data", "data", "--contact-sheet", "sheet.png")
    assert "[red]{{ 7*7 }}" in said
    assert "\x1b" not in said
    assert "\ufffd]0;title" in said
    assert (results.parent / "sheet.png").stat().st_size > 1000


def test_a_setting_in_the_live_table_is_shown_as_it_is_written():
    trial, console = (
        TrialConfig(group_pattern="HE-(..)[bold]"),
        Console(file=io.StringIO(), width=120),
    )
    console.print(ProgressTable([trial], ("group_pattern",), {}, console).render())
    assert "HE-(..)[bold]" in console.file.getvalue()


def test_a_line_on_the_console_is_printed_as_it_is_and_is_not_wrapped():
    console = Console(file=io.StringIO(), width=20)
    print_plain(console, "tiles/[bold]a[/bold] :cat: 12 and more than that")
    assert console.file.getvalue() == "tiles/[bold]a[/bold] :cat: 12 and more than that\n"


@pytest.mark.ray
def test_an_error_shows_what_steers_a_terminal_as_a_sign(tmp_path):
    write_class_folders(tmp_path / "data", **{NAMES[-1]: 20, "b": 1})
    ended = subprocess.run(
        [sys.executable, str(GRID_PROGRAM), "--data", str(tmp_path / "data"), *QUICK_FLAGS],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert ended.returncode == 2
    assert "\x1b" not in ended.stderr


@pytest.mark.nightly
def test_nothing_that_a_name_says_was_done(results):
    assert {path.name for path in results.parent.iterdir()} <= {
        "data",
        "results",
        "cache",
        "sheet.png",
    }
