"""The program that makes the nine tables of the report of 2023."""

import sys
from pathlib import Path

import pandas as pd
import pytest

import report_2023
from bioimg.config import TrialConfig
from bioimg.report.analysis import Analysis
from bioimg.report.table_model import Table
from support.example_results import (
    MEASURES,
    NINE_RUNS,
    V1,
    V2,
    read_analysis,
    trial_row,
    write_report_2023,
    write_results,
)

SETTINGS = ("weights", "batch_size", "freeze", "epochs")
RUNS_BY_TABLE = {2: (0,), 3: (1,), 4: (2,), 5: (3,), 6: (4, 5), 7: (6,), 8: (7, 8)}


@pytest.fixture
def nine(tmp_path: Path) -> Analysis:
    return read_analysis(write_report_2023(tmp_path / "report-2023"))


@pytest.fixture
def tables(nine: Analysis) -> dict[str, Table]:
    return {table.name: table for table in report_2023.build_tables(nine)}


def test_tables_2_to_8_have_the_runs_of_the_report(tables: dict[str, Table]) -> None:
    for number, runs in RUNS_BY_TABLE.items():
        records = tables[f"table-{number}"].values.to_dict("records")
        assert len(records) == len(runs)
        for record, run in zip(records, runs, strict=True):
            values = [record[name] for name in (*SETTINGS, *MEASURES)]
            known_values = [None if pd.isna(value) else value for value in values]
            assert known_values == list(NINE_RUNS[run])


def test_table_2_reads_as_in_the_report(tables: dict[str, Table]) -> None:
    (row,) = tables["table-2"].cells()
    assert row[:6] == [V1, "32", "all layers", "50", "0.0113", "99.7"]
    assert row[6:] == ["0.2404 (28/50)", "91.8", "92.8", "93.5 [91.2, 95.2]", "16:15"]


def test_table_9_has_four_rows_with_their_numbers(tables: dict[str, Table]) -> None:
    table = tables["table-9"]
    rows = {tuple(row[:3]): row[4:] for row in table.cells()}
    assert rows[V1, "128", "all layers"] == ["0.2720 (34/50)", "94.0 [91.8, 95.6]", "93.5"]
    assert rows[V1, "128", "head only"] == ["0.3184 (52/100)", "87.5 [84.6, 89.9]", "88.8"]
    assert len(rows) == 4
    assert any("different numbers of epochs (40, 50, 100)" in note for note in table.notes)


def test_table_1_comes_from_the_model(tables: dict[str, Table]) -> None:
    rows = {row[0]: row for row in tables["table-1"].cells()}
    assert [rows[f"layer{n}"][2] for n in (1, 2, 3, 4)] == ["3", "4", "6", "3"]
    assert rows["maxpool"][1] == "3x3 max-pool, stride 2, padding 1"
    assert rows["layer1"][1] == "1x1 conv, 128; 3x3 conv, 128, 32 groups; 1x1 conv, 256"
    assert rows["fc"][1] == "linear, 2048 to 6"


def test_results_of_other_lengths_are_shown_instead(tmp_path: Path) -> None:
    grid = []
    for weights in (V1, V2):
        for size in (32, 64, 128):
            for freeze in ("none", "features"):
                config = TrialConfig(weights=weights, batch_size=size, freeze=freeze, epochs=7)
                grid.append(trial_row(config, test_accuracy=0.9, best_val_loss=0.1))
    analysis = read_analysis(write_results(tmp_path, grid))
    _, *tables = report_2023.build_tables(analysis)
    assert [len(table.values) for table in tables] == [1, 1, 1, 1, 1, 1, 2, 4]


def test_program_writes_all_tables(
    nine: Analysis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "report-2023"
    monkeypatch.setattr(sys, "argv", ["report_2023.py", str(folder)])
    assert report_2023.main() == 0
    names = {path.name for path in (folder / "report").iterdir()}
    assert names == {f"table-{n}.{form}" for n in range(1, 10) for form in ("md", "docx", "tex")}


def test_program_without_results_explains_itself(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["report_2023.py"])
    assert report_2023.main() == 2
    assert "python experiments/report_2023.py RESULTS" in capsys.readouterr().err
