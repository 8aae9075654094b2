"""How often test results were shown."""

from pathlib import Path

import pytest

from bioimg.config import TrialConfig
from bioimg.errors import StorageError
from bioimg.report.write import ReportOptions, print_comparison, write_report
from bioimg.results.looks import read_looks, record_look
from bioimg.results.result_store import LOOKS_FILE, read_results
from bioimg.storage.filesystem import LocalStorage
from support.example_results import trial_row, write_results


def write_trials(folder: Path, *statuses: str) -> Path:
    rows = []
    for number, status in enumerate(statuses):
        config = TrialConfig(data="kather2016", seed=number)
        measured = {"test_accuracy": 0.9} if status == "completed" else {}
        rows.append(trial_row(config, status=status, best_val_loss=0.5, **measured))
    return write_results(folder, rows)


def completed_counts(folder: Path) -> list[int]:
    return [look.completed for look in read_looks(folder)]


def test_reports_and_printed_tables_count_as_looks(tmp_path: Path):
    folder = write_trials(tmp_path, "completed", "completed", "stopped")
    assert completed_counts(folder) == []
    print_comparison(str(folder))
    write_report(str(folder), ReportOptions(format=("csv",)))
    assert completed_counts(folder) == [2, 2]


def test_table_of_validation_images_is_no_look(tmp_path: Path):
    folder = write_trials(tmp_path, "completed")
    write_report(str(folder), ReportOptions(format=("csv",), at_epoch=1))
    assert completed_counts(folder) == []


def test_results_without_a_completed_trial_are_no_look(tmp_path: Path):
    folder = write_trials(tmp_path, "failed")
    assert record_look(folder, completed=0) == []
    assert not (folder / LOOKS_FILE).exists()


def test_report_on_a_folder_that_cannot_be_written_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = write_trials(tmp_path / "results", "completed")

    def refuse(storage: LocalStorage, name: str, *_: object, **__: object) -> None:
        raise StorageError(f"{storage} is read-only, so {name} can't be written")

    monkeypatch.setattr(LocalStorage, "write", refuse)
    write_report(str(folder), ReportOptions(format=("csv",), out=tmp_path / "report"))
    assert (tmp_path / "report" / "comparison.csv").exists()
    looks = record_look(folder, completed=1)
    assert [look.completed for look in looks] == [1]
    assert read_results(folder).manifest["name"] == "test"


@pytest.mark.parametrize("content", ["[", "3", '[{"time": "2026-01-01"}]'])
def test_damaged_record_is_named_and_started_anew(
    tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture
):
    folder = write_trials(tmp_path, "completed")
    (folder / LOOKS_FILE).write_text(content)
    record_look(folder, completed=1)
    assert "looks.json is damaged" in caplog.text
    assert completed_counts(folder) == [1]
