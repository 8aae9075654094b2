"""`bioimg report` and `bioimg verify` as a user types them."""

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest
import tyro

from bioimg.cli.report import ReportCommand
from bioimg.cli.verify import VerifyCommand
from bioimg.config import TrialConfig
from bioimg.errors import UserError
from bioimg.report import detail_tables, documents
from bioimg.report.write import TABLE_FORMATS, TABLE_NAMES
from support.example_results import V1, V2, trial_row, write_report_2023, write_results

DEFAULT_FILES = {"report.html", "comparison.csv", "comparison.xlsx", "comparison.docx"}
NINE_RUNS_TABLES = ("comparison", "differences", "differences-best", "effects", "cost")
"""The tables of the nine runs, which have neither curves nor predictions."""

REPORT_PROGRAM = """
import sys, tyro
from bioimg.cli.report import ReportCommand
command = tyro.cli(ReportCommand, args=sys.argv[1:])
code = command.run()
heavy = sorted({"torch", "torchvision", "ray", "matplotlib"} & set(sys.modules))
print(f"code {code}, heavy {heavy}")
"""


def report(*args: str | Path) -> int:
    return tyro.cli(ReportCommand, args=list(map(str, args))).run()


def verify(*args: str | Path) -> int:
    return tyro.cli(VerifyCommand, args=list(map(str, args))).run()


def file_names(path: Path) -> set[str]:
    return {file.name for file in path.iterdir()}


def printed_line(capsys: pytest.CaptureFixture[str]) -> str:
    """Return what was printed as one line, however the console wrapped it."""
    return " ".join(capsys.readouterr().out.split())


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return write_report_2023(tmp_path / "report-2023")


# which files are written


@pytest.mark.ray
def test_default_report_is_four_files_without_heavy_imports(results: Path) -> None:
    command = [sys.executable, "-c", REPORT_PROGRAM, str(results)]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.stdout.splitlines()[-1] == "code 0, heavy []", process.stderr
    assert file_names(results / "report") == DEFAULT_FILES


def test_console_shows_conclusions_and_the_page_to_open(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report(results) == 0
    output = printed_line(capsys)
    recipe = "weights IMAGENET1K_V2, trained: all layers, batch 128, epochs 40"
    assert f"Best by validation: this trained model of {recipe}, with 95.3 %" in output
    assert "would have been found in 4 of 5 cases, p = 0.3" in output
    assert f"Tables in {results}/report: comparison (csv, xlsx, docx)" in output
    assert output.endswith(f"The page to open first: {results}/report/report.html")


def test_all_tables_and_formats_on_request(results: Path) -> None:
    assert report(results, "--tables", "all", "--format", *TABLE_FORMATS, "--figures") == 0
    tables = {f"{name}.{form}" for name in NINE_RUNS_TABLES for form in TABLE_FORMATS}
    assert file_names(results / "report") == {*tables, "report.html", "figures"}
    assert any((results / "report" / "figures").iterdir())


def test_named_tables_are_made_even_if_empty(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report(results, "--tables", "effects", "per-class", "--format", "md") == 0
    assert file_names(results / "report") == {"effects.md", "per-class.md", "report.html"}
    assert "Nothing to show" in (results / "report" / "per-class.md").read_text()
    assert "Effect of each axis on the test accuracy" in printed_line(capsys)


def test_price_adds_the_cost_table(results: Path) -> None:
    assert report(results, "--price", "36", "--format", "csv") == 0
    assert file_names(results / "report") == {"comparison.csv", "cost.csv", "report.html"}
    assert "price" in (results / "report" / "cost.csv").read_text("utf-8-sig")


def test_files_of_an_earlier_report_stay_unlisted(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report(results, "--tables", "cost", "--format", "md")
    capsys.readouterr()
    assert report(results) == 0
    assert file_names(results / "report") == {*DEFAULT_FILES, "cost.md"}
    assert "cost" not in capsys.readouterr().out.partition("Tables in")[2]


def test_every_table_and_format_is_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        tyro.cli(ReportCommand, args=["--help"])
    words = set(re.findall(r"[a-z-]+", capsys.readouterr().out))
    assert {*TABLE_NAMES, *TABLE_FORMATS} <= words
    assert documents.TABLE_FORMATS == TABLE_FORMATS
    assert ("comparison", *detail_tables.TABLE_BUILDERS) == TABLE_NAMES


def test_selection_is_written_without_a_page(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = [
        *("--rows", 'freeze == "features"'),
        *("--columns", "weights", "epochs", "test_accuracy"),
        *("--sort", "test_accuracy"),
        *("--format", "md"),
    ]
    assert report(results, *args, "--out", tmp_path / "out") == 0
    (path,) = (tmp_path / "out").iterdir()
    rows = [line for line in path.read_text().splitlines() if line.startswith("| IMAGE")]
    assert path.name == "selection.md"
    assert [row.split("|")[2].strip() for row in rows] == ["100", "100", "40"]
    assert "(trials: 3 of 9)" in printed_line(capsys)


def test_chinese_in_files_and_terminal(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report(results, "--lang", "zh-TW", "--format", "csv") == 0
    assert "預訓練權重" in (results / "report" / "comparison.csv").read_text(encoding="utf-8-sig")
    assert "預訓練權重" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--format", "md", "pdf"), "the value of `format` is 'pdf'"),
        (("--tables", "costs"), "the value of `tables` is 'costs'.* Did you mean 'cost'"),
        (("--tables",), "the value of `tables` is empty"),
        (("--tables", "all", "--single"), "the value of `tables` is all, but must be left out"),
    ],
)
def test_wrong_flags_are_named_before_anything_is_written(
    results: Path, args: Sequence[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        report(results, *args)
    assert not (results / "report").exists()


# verify


def test_verify_finds_results_above_the_file(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report(results, "--format", "md")
    path = results / "report" / "comparison.md"
    assert verify(path) == 0
    assert "81 cells compared, all agree with the results." in printed_line(capsys)


def test_verify_returns_1_for_a_wrong_cell(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report(results, "--format", "md")
    path = results / "report" / "comparison.md"
    path.write_text(path.read_text().replace("95.3 [", "96.3 ["))
    assert verify(path) == 1
    message = "the file says 96.3 [93.3, 96.7], the results say 95.3 [93.3, 96.7]."
    assert message in capsys.readouterr().out


def test_verify_outside_results_needs_their_folder(tmp_path: Path, results: Path) -> None:
    report(results, "--format", "md")
    path = tmp_path / "t.md"
    path.write_text((results / "report" / "comparison.md").read_text())
    message = r"isn't in a results folder\. Name the results with --results"
    with pytest.raises(UserError, match=message):
        verify(path)
    assert verify(path, "--results", results) == 0


def test_verify_of_a_missing_file_is_named(tmp_path: Path) -> None:
    message = r"the value of `file` is '.*missing\.docx', but there is no such file\. Name"
    with pytest.raises(UserError, match=message):
        verify(tmp_path / "missing.docx")


# bad results


def test_missing_folder_is_named(tmp_path: Path) -> None:
    message = r"the value of `results` is '.*lost', but there is no such folder\. Name one"
    with pytest.raises(UserError, match=message):
        report(tmp_path / "lost")


def test_file_instead_of_a_folder_is_named(results: Path) -> None:
    with pytest.raises(UserError, match=r"trials\.parquet', but there is no such folder"):
        report(results / "trials.parquet")


def test_folder_without_results_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"isn't a folder of results: it lacks experiment\.json"):
        report(tmp_path)


def test_results_of_another_version_are_named(results: Path) -> None:
    path = results / "experiment.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "format": 7, "versions": {"bioimg": "9.0"}}))
    message = (
        r"the `format` of .* is 7, but must be \d: another version .* "
        r"Use that version \(9\.0, commit "
    )
    with pytest.raises(UserError, match=message):
        report(results)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("experiment.json", r"can't be read: .* Copy the folder again"),
        ("trials.parquet", r"is damaged .* Replace it with a copy"),
        ("predictions.parquet", r"is damaged .* Replace it with a copy"),
    ],
)
def test_half_written_results_are_named(results: Path, name: str, message: str) -> None:
    path = results / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match=message):
        report(results)


# results with little in them


@pytest.mark.parametrize("status", ["failed", "stopped"])
def test_report_without_a_completed_trial_says_so(
    tmp_path: Path, status: str, capsys: pytest.CaptureFixture[str]
) -> None:
    error = "CUDA [bold]out[/bold] of memory"
    configs = [TrialConfig(weights=weights) for weights in (V1, V2)]
    rows = [trial_row(config, status=status, error=error, epochs_run=3) for config in configs]
    path = write_results(tmp_path / "results", rows)
    assert report(path) == 0
    output = printed_line(capsys)
    assert "No trial was completed, so there is nothing to compare yet" in output
    expected = {"stopped": "2 of 2 trials were stopped", "failed": "Failed trials: 2 of 2."}
    assert expected[status] in output
    if status == "failed":
        table = (path / "report" / "comparison.csv").read_text("utf-8-sig")
        assert f"failed: {error}" in table


def test_report_without_trials_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report(write_results(tmp_path / "results", [])) == 0
    assert "No trial was completed, so there is nothing to compare yet" in printed_line(capsys)


@pytest.mark.parametrize("status", ["completed", "failed"])
def test_one_thing_is_never_in_the_plural(
    tmp_path: Path, status: str, capsys: pytest.CaptureFixture[str]
) -> None:
    measures = {"best_val_loss": 0.1, "test_accuracy": 0.9, "train_seconds": 9.0}
    counts = {"unreadable_skipped": 1, "duplicate_images_across_splits": 1}
    row = trial_row(TrialConfig(), status=status, error="lost", **counts, **measures)
    path = write_results(tmp_path / "results", [row], complete=False)
    report(path, "--format", "md")
    texts = [capsys.readouterr().out]
    for name in ("comparison.md", "report.html"):
        texts.append((path / "report" / name).read_text())
    text = " ".join(" ".join(texts).split())
    nouns = "images|trials|recipes|groups|runs|comparisons|pairs"
    assert re.findall(rf"\b1 (?:[a-z]+ )?(?:{nouns})\b", text) == []


@pytest.mark.nightly
def test_ten_thousand_rows_fit_every_format(tmp_path: Path) -> None:
    rows = []
    for n in range(10_000):
        config = TrialConfig(batch_size=n % 100 + 1, seed=n // 1000, epochs=n // 100 % 10 + 1)
        rows.append(trial_row(config, test_accuracy=0.9, best_val_loss=0.1 + n))
    path = write_results(tmp_path / "results", rows)
    assert report(path, "--single", "--format", *TABLE_FORMATS) == 0
    assert len(pd.read_parquet(path / "report" / "selection.parquet")) == 10_000
