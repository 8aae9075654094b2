"""A cell agrees with a value if it is a right rounding of it, and nothing else stands there."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bioimg.report.table_model import Column, format_cell
from bioimg.verify.cell_comparison import compare_cell, resolve_setting

ACCURACY = Column(name="acc", kind="share", decimals=1, interval=True)
LOSS = Column(name="loss", kind="loss", decimals=4)
P = Column(name="p", kind="p")
COUNT = Column(name="n", kind="count")
TIME = Column(name="time", kind="seconds")
RECORD: dict[str, Any] = {
    "acc": 0.9273,
    "acc_low": 0.9,
    "acc_high": 0.95,
    "loss": 0.16563,
    "loss_epoch": 35,
    "epochs_run": 40,
    "p": 0.0321,
    "n": 1234,
    "time": 975.4,
}


def compare(text: str, column: Column, **changes: Any) -> str | None:
    record = RECORD | changes
    return compare_cell(text, column, record, [format_cell(column, record)])


@given(st.floats(-1, 1), st.integers(0, 3))
def test_formatted_value_agrees_with_its_source(value: float, decimals: int) -> None:
    column = Column(name="acc", kind="share", decimals=decimals)
    assert compare(format_cell(column, {"acc": value}), column, acc=value) is None


@given(st.floats(0, 360000))
def test_formatted_time_agrees_to_the_second(seconds: float) -> None:
    text = format_cell(TIME, {"time": seconds})
    assert compare(text, TIME, time=seconds) is None
    assert compare(text, TIME, time=seconds + 2) == "value"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("92.7 [90.0, 95.0]", None),
        ("92.73 [90.00, 95.00]", None),
        ("93 [90, 95]", None),
        ("92,7 [90,0; 95,0]", None),
        ("92.7 (90.0–95.0)", None),
        ("92.7", "interval"),
        ("92.7 [90.0, 95.1]", "value"),
        ("92.8 [90.0, 95.0]", "value"),
        ("92.70 [90.0, 95.0]", "value"),  # the second decimal is wrong
        ("0.927 [0.900, 0.950]", "value"),
        ("-92.7 [90.0, 95.0]", "value"),
        ("92.7 ± 2.5", "value"),
        ("92.7 % [90.0, 95.0]", "words"),
        ("92.7* [90.0, 95.0]", "words"),
        ("about 92.7 [90.0, 95.0]", "words"),
        ("1e2 [90.0, 95.0]", "digits"),
        ("9e1 [90.0, 95.0]", "digits"),
        ("high", "value"),
        ("–", "empty"),
        ("", "empty"),
    ],
)
def test_accuracy_is_compared_with_its_interval(text: str, expected: str | None) -> None:
    assert compare(text, ACCURACY) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.1656 (35/40)", None),
        ("0.166 (35)", None),
        ("0.17", None),
        ("0.165", "value"),  # cut off, not rounded
        ("0.2", "digits"),
        ("0", "digits"),
        ("0.1656 (36/40)", "value"),
        ("0.1656 (35/50)", "value"),
    ],
)
def test_loss_is_compared_with_its_epoch(text: str, expected: str | None) -> None:
    assert compare(text, LOSS) == expected


@pytest.mark.parametrize(
    ("column", "text", "expected"),
    [
        (P, "0.032", None),
        (P, ".032", None),
        (P, "0.0321", None),
        (P, "0.03", "digits"),
        (P, "< 0.05", "value"),
        (COUNT, "1234", None),
        (COUNT, "1,234", None),
        (COUNT, "1.234", "value"),
        (COUNT, "1.2e3", "value"),
        (TIME, "16:15", None),
        (TIME, "0:16:15", None),
        (TIME, "16:14", "value"),
        (TIME, "975", "value"),
    ],
)
def test_number_is_compared_by_its_kind(column: Column, text: str, expected: str | None) -> None:
    assert compare(text, column) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("< 0.001", None), ("<0.001", None), ("< 0.0001", "value"), ("0.001", "value")],
)
def test_small_p_value_stays_below_the_limit_of_the_report(text: str, expected: str | None) -> None:
    assert compare(text, P, p=0.0004) == expected


@pytest.mark.parametrize("blank", ["", "–", "-", "n/a", "NA", "nan"])
def test_blank_cell_agrees_with_a_missing_value_only(blank: str) -> None:
    assert compare(blank, LOSS, loss=None) is None
    assert compare(blank, LOSS) == "empty"
    assert compare("0.1", LOSS, loss=None) == "value"


def test_zero_stands_for_zero_only() -> None:
    column = Column(name="gap", kind="points", decimals=1)
    assert compare("0", column, gap=0.0001) is None
    assert compare("0", column, gap=0.0018) == "digits"


@pytest.mark.parametrize("name", ["NA", "None", "nan", "1e5", "-", "", "V1", "a\nb"])
def test_text_is_found_before_it_is_taken_for_a_sign(name: str) -> None:
    known = ["–", "100000", "IMAGENET1K_V1", name.replace("\n", " ")]
    assert resolve_setting(name, known) == known[-1]


@pytest.mark.parametrize(
    ("text", "setting"),
    [
        ("V1", "IMAGENET1K_V1"),
        ("imagenet1k_v2", "IMAGENET1K_V2"),
        ("32.0", "32"),
        ("none", "all layers"),
        ("", "–"),
        ("IMAGENET1K", None),
        ("64", None),
    ],
)
def test_setting_is_resolved_if_it_is_clear(text: str, setting: str | None) -> None:
    known = ["IMAGENET1K_V1", "IMAGENET1K_V2", "32", "all layers", "–"]
    assert resolve_setting(text, known) == setting
