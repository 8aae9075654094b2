"""Weights files are shown by their file names, in every document and to `bioimg verify`."""

from pathlib import Path

import pandas as pd
import pytest

from bioimg.cli.report import ReportCommand
from bioimg.cli.verify import VerifyCommand
from bioimg.config import TrialConfig
from bioimg.report.checks import weights_notes
from support.example_results import V2, epoch_rows, prediction_rows, trial_row, write_results

WEIGHTS_FILE = "/home/me/mine.pth"


def make_report(path: Path, *weights: str) -> Path:
    """Report on trials with these weights, the first ones the best. Return the report's folder."""
    rows, epochs, images = [], [], []
    for rank, name in enumerate(weights, start=1):
        config = TrialConfig(data="tiles", epochs=2, weights=name)
        accuracy = 1 - rank / 100
        rows.append(
            trial_row(config, best_val_loss=rank / 10, test_accuracy=accuracy, train_seconds=9.0)
        )
        epochs += epoch_rows(config.key, (0.5, rank / 10), (0.8, 0.9))
        images += prediction_rows(config.key, wrong=range(6 * rank))
    results = write_results(path / "results", rows, epochs, images, axes={"weights": list(weights)})
    ReportCommand(folder=str(results), tables=("all",), format=("md", "csv")).run()
    return results / "report"


@pytest.mark.parametrize(
    "name", ["report.html", "comparison.md", "comparison.csv", "per-class.md", "differences.md"]
)
def test_documents_name_weights_files_without_their_folder(tmp_path: Path, name: str) -> None:
    report = make_report(tmp_path, WEIGHTS_FILE, V2)
    text = (report / name).read_text(encoding="utf-8-sig")
    assert "mine.pth" in text
    assert "/home/me" not in text


def test_headline_names_weights_files_without_their_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_report(tmp_path, WEIGHTS_FILE, V2)
    output = " ".join(capsys.readouterr().out.split())
    assert "this trained model of weights mine.pth, with 99.0 %" in output
    assert "/home/me" not in output


def test_verify_finds_rows_by_the_shown_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = make_report(tmp_path, WEIGHTS_FILE, V2) / "comparison.md"
    assert VerifyCommand(file=table).run() == 0
    table.write_text(table.read_text().replace("| mine.pth", "| thine.pth"))
    assert VerifyCommand(file=table).run() == 1
    output = " ".join(capsys.readouterr().out.split())
    assert "the file says thine.pth, the results say mine.pth" in output


def test_weights_files_of_one_name_keep_their_folders(tmp_path: Path) -> None:
    report = make_report(tmp_path, WEIGHTS_FILE, "/home/you/mine.pth", "own/theirs.pth")
    table = report / "comparison.md"
    text = table.read_text()
    for name in (WEIGHTS_FILE, "/home/you/mine.pth", "theirs.pth"):
        assert f"| {name}" in text
    assert VerifyCommand(file=table).run() == 0


def weights_notes_of(**columns: str) -> list[str]:
    row = {"model": "vit", "weights_licence": None, "weights_interpolation": None, **columns}
    return [note.code for note in weights_notes(pd.DataFrame([row, {**row, "model": "other"}]))]


@pytest.mark.parametrize(
    ("columns", "codes"),
    [
        ({}, []),
        ({"weights_interpolation": "bilinear", "weights_licence": "mit"}, []),
        ({"weights_interpolation": "bicubic"}, ["interpolation"]),
        ({"weights_licence": "cc-by-nc-nd-4.0"}, ["non_commercial", "no_derivatives"]),
        ({"weights_licence": "lunit-non-commercial"}, ["non_commercial"]),
    ],
)
def test_caption_says_what_publishers_of_weights_meant_otherwise(columns, codes):
    assert weights_notes_of(**columns) == codes
