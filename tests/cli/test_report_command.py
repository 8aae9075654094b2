"""The commands as a user types them: quick to start, no Ray, no torch, words for what is wrong."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import tyro

from bioimg.cli.report import ReportCommand
from bioimg.cli.verify import VerifyCommand
from bioimg.config import TrialConfig
from bioimg.errors import UserError
from bioimg.report.documents import TABLE_FORMATS as WRITTEN
from bioimg.report.write import TABLE_FORMATS
from support.handmade_results import V1, V2, folder, report_2023, trial

RUN = """
import sys, tyro
from bioimg.cli.report import ReportCommand as Report
command = tyro.cli(Report, args=sys.argv[1:])
code = command.run()
heavy = sorted({"torch", "torchvision", "ray"} & set(sys.modules))
print(f"code {code}, heavy {heavy}")
"""


def report(*args: str | Path) -> int:
    return tyro.cli(ReportCommand, args=list(map(str, args))).run()


def check(*args: str | Path) -> int:
    return tyro.cli(VerifyCommand, args=list(map(str, args))).run()


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return report_2023(tmp_path / "report-2023")


def test_report_imports_neither_torch_nor_ray(results: Path) -> None:
    done = subprocess.run([sys.executable, "-c", RUN, str(results)], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "code 0, heavy []", done.stderr
    assert (results / "report" / "comparison.docx").exists()


def test_report_writes_every_table_in_every_format(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report(results) == 0
    names = {path.name for path in (results / "report").iterdir()}
    tables = ("comparison", "differences", "differences-best", "effects", "cost")
    assert names == {f"{table}.{form}" for table in tables for form in TABLE_FORMATS} | {
        "report.html",
        "figures",
    }
    printed = " ".join(capsys.readouterr().out.split())
    assert (
        "Validation chose weights IMAGENET1K_V2, trained: all layers, batch 128, epochs 40"
        in printed
    )
    assert "not distinguishable, p = 0.3 (" in printed
    assert TABLE_FORMATS == WRITTEN


def test_a_selection_goes_beside_the_report(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = (
        "--rows",
        'freeze == "features"',
        "--columns",
        "weights",
        "epochs",
        "test_accuracy",
        "--sort",
        "test_accuracy",
    )
    assert report(results, *args, "--format", "md", "--out", tmp_path / "out") == 0
    (path,) = (tmp_path / "out").iterdir()
    rows = [line for line in path.read_text().splitlines() if line.startswith("| IMAGE")]
    assert path.name == "selection.md"
    assert [row.split("|")[2].strip() for row in rows] == ["100", "100", "40"]
    assert "(trials: 3 of 9)" in " ".join(capsys.readouterr().out.split())


def test_the_preset_writes_tables_1_to_9(results: Path) -> None:
    assert report(results, "--preset", "report-2023", "--format", "md", "tex") == 0
    names = {path.name for path in (results / "report").iterdir()}
    assert names == {f"table-{number}.{form}" for number in range(1, 10) for form in ("md", "tex")}


def test_chinese_goes_to_files_and_terminal(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report(results, "--lang", "zh-TW", "--format", "csv") == 0
    assert "預訓練權重" in (results / "report" / "comparison.csv").read_text(encoding="utf-8-sig")
    assert "預訓練權重" in capsys.readouterr().out


def test_verify_finds_its_results_above_the_file_and_ends_with_1_if_a_cell_is_wrong(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report(results, "--format", "md")
    path = results / "report" / "comparison.md"
    assert check(path) == 0
    assert "117 cells compared, all agree with the results." in " ".join(
        capsys.readouterr().out.split()
    )
    path.write_text(path.read_text().replace("95.3 [", "96.3 ["))
    assert check(path) == 1
    assert (
        "the file says 96.3 [93.3, 96.8], the results say 95.3 [93.3, 96.8]."
        in capsys.readouterr().out
    )


def test_verify_needs_results(tmp_path: Path, results: Path) -> None:
    path = tmp_path / "t.md"
    path.write_text("| weights |\n|---|\n| V1 |\n")
    with pytest.raises(
        UserError, match=r"isn't in a results folder\. Name the results with --results"
    ):
        check(path)
    assert check(path, "--results", results) == 0


def test_verify_says_of_a_file_that_is_not_there_that_it_is_not(tmp_path: Path) -> None:
    with pytest.raises(
        UserError,
        match=r"the value of `file` is '.*missing\.docx', but there is no such file\. Name",
    ):
        check(tmp_path / "missing.docx")


# bad results


def test_a_folder_that_is_not_there_is_said_not_to_be_there(tmp_path: Path) -> None:
    with pytest.raises(
        UserError,
        match=r"the value of `results` is '.*lost', but there is no such folder\. Name one",
    ):
        report(tmp_path / "lost")


def test_a_file_in_place_of_a_folder_is_said_not_to_be_one(results: Path) -> None:
    with pytest.raises(UserError, match=r"trials\.parquet', but there is no such folder"):
        report(results / "trials.parquet")


def test_a_folder_that_holds_no_results_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"isn't a folder of results: it lacks experiment\.json"):
        report(tmp_path)


@pytest.mark.parametrize("version", [1, 7])
def test_results_of_another_format_are_refused(results: Path, version: int) -> None:
    path = results / "experiment.json"
    change = {"format": version, "versions": {"bioimg": "9.0"}, "commit": "abc1234"}
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    message = (
        rf"the `format` of .* is {version}, but must be 2: another version .* can't read them\. "
        r"Use that version \(9\.0, commit abc1234\), or run the experiment again into a new folder"
    )
    with pytest.raises(UserError, match=message):
        report(results)


@pytest.mark.parametrize("name", ["experiment.json", "trials.parquet", "predictions.parquet"])
def test_half_written_results_are_named(results: Path, name: str) -> None:
    path = results / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    way_out = (
        r"can't be read: .* Copy the folder again"
        if name.endswith("json")
        else r"is damaged .* Replace it with a copy"
    )
    with pytest.raises(UserError, match=way_out):
        report(results)


@pytest.mark.parametrize("status", ["empty", "failed", "stopped"])
def test_results_in_which_nothing_completed_make_a_report_that_says_so(
    tmp_path: Path, status: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        trial(
            TrialConfig(weights=w),
            status=status,
            error="CUDA [bold]out[/bold] of memory",
            epochs_run=3,
        )
        for w in (V1, V2)
    ]
    path = folder(tmp_path / "results", [] if status == "empty" else rows)
    assert report(path) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "No trial was completed: nothing can be compared." in printed
    assert status == "empty" or f"2 of 2 trials {status}" in printed
    assert status != "failed" or "failed: CUDA [bold]out[/bold]" in (
        path / "report" / "comparison.csv"
    ).read_text("utf-8-sig")


@pytest.mark.parametrize("status", ["completed", "failed"])
def test_of_one_thing_nothing_is_said_in_the_plural(
    tmp_path: Path, status: str, capsys: pytest.CaptureFixture[str]
) -> None:
    told = {"error": "lost", "best_val_loss": 0.1, "test_accuracy": 0.9, "train_seconds": 9.0}
    row = trial(
        TrialConfig(), status=status, unreadable_skipped=1, duplicate_images_across_splits=1, **told
    )
    path = folder(tmp_path / "results", [row], complete=False)
    ReportCommand(folder=str(path), format=("md",)).run()
    files = [path / "report" / name for name in ("comparison.md", "report.html")]
    said = " ".join(
        "".join([capsys.readouterr().out, *(file.read_text() for file in files)]).split()
    )
    assert (
        re.findall(
            r"\b1 (?:[a-z]+ )?(?:images|trials|recipes|groups|runs|comparisons|pairs)\b", said
        )
        == []
    )


def test_unknown_formats_are_named_before_anything_is_written(results: Path) -> None:
    with pytest.raises(UserError, match="the value of `format` is 'pdf'"):
        report(results, "--format", "md", "pdf")
    assert not (results / "report").exists()


@pytest.mark.slow
def test_ten_thousand_rows_are_all_in_the_table(tmp_path: Path) -> None:
    rows = [
        trial(
            TrialConfig(batch_size=n % 100 + 1, seed=n // 1000, epochs=n // 100 % 10 + 1),
            test_accuracy=0.9,
            best_val_loss=0.1 + n,
        )
        for n in range(10_000)
    ]
    path = folder(tmp_path / "results", rows)
    assert report(path, "--single", "--format", *TABLE_FORMATS) == 0
    assert len(pd.read_parquet(path / "report" / "selection.parquet")) == 10_000
