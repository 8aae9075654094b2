"""Weights that are files are known to readers by their file names, in every document and to `bioimg verify`."""

from pathlib import Path

import pytest

from bioimg.cli.report import ReportCommand
from bioimg.cli.verify import VerifyCommand
from bioimg.config import TrialConfig
from support.handmade_results import V2, curve, folder, predictions, trial

MINE = "/home/me/mine.pth"


def written(path: Path, *weights: str) -> Path:
    """Results of these weights, the first ones the best, and their report."""
    rows, epochs, images = [], [], []
    for rank, name in enumerate(weights, start=1):
        config = TrialConfig(data="tiles", epochs=2, weights=name)
        rows.append(
            trial(config, best_val_loss=rank / 10, test_accuracy=1 - rank / 100, train_seconds=9.0)
        )
        epochs += curve(config.key, (0.5, rank / 10), (0.8, 0.9))
        images += predictions(config.key, wrong=range(6 * rank))
    results = folder(path / "results", rows, epochs, images, axes={"weights": list(weights)})
    ReportCommand(folder=str(results), tables=("all",), format=("md", "csv")).run()
    return results / "report"


@pytest.mark.parametrize(
    "name", ["report.html", "comparison.md", "comparison.csv", "per-class.md", "differences.md"]
)
def test_a_document_calls_a_weights_file_by_its_name(tmp_path: Path, name: str) -> None:
    text = (written(tmp_path, MINE, V2) / name).read_text(encoding="utf-8-sig")
    assert "mine.pth" in text
    assert "/home/me" not in text


def test_so_does_the_headline_on_the_console(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written(tmp_path, MINE, V2)
    said = " ".join(capsys.readouterr().out.split())
    assert "Validation chose weights mine.pth: 99.0 %" in said
    assert "/home/me" not in said


def test_verify_finds_the_row_by_that_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = written(tmp_path, MINE, V2) / "comparison.md"
    assert VerifyCommand(file=table).run() == 0
    table.write_text(table.read_text().replace("| mine.pth", "| thine.pth"))
    assert VerifyCommand(file=table).run() == 1
    assert "the file says thine.pth, the results say mine.pth" in " ".join(
        capsys.readouterr().out.split()
    )


def test_two_weights_files_of_one_name_are_told_apart_by_where_they_lie(tmp_path: Path) -> None:
    table = written(tmp_path, MINE, "/home/you/mine.pth", "own/theirs.pth") / "comparison.md"
    text = table.read_text()
    assert all(name in text for name in (f"| {MINE}", "| /home/you/mine.pth", "| theirs.pth"))
    assert VerifyCommand(file=table).run() == 0
