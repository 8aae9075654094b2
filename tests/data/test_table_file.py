"""Tables as programs write them: delimiters, encodings, sheets, and files that aren't tables."""

import openpyxl
import pyarrow as pa
import pytest
from pyarrow import parquet

from bioimg.data.table_file import read_table
from bioimg.errors import UserError

NEEDED = ("path", "label")


@pytest.mark.parametrize(
    ("content", "assumption"),
    [
        ("path,label\n1.png,a\n2.png,b\n", ""),
        ("path;label\n1.png;a\n2.png;b\n", "semicolons"),
        ("path|label\n1.png|a\n2.png|b\n", "bars"),
        ("path\tlabel\n1.png\ta\n2.png\tb\n", "tabs"),
        ("sep=;\r\npath;label\r\n1.png;a\r\n2.png;b\r\n", "semicolons"),
        ('"path","label"\r\n"1.png","a"\r\n\r\n2.png , b\r\n', ""),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_dialect_is_read_and_what_was_assumed_is_recorded(tmp_path, content, assumption, encoding):
    (tmp_path / "x.csv").write_bytes(content.encode(encoding))
    table = read_table(tmp_path / "x.csv", NEEDED)
    assert (table.column("path"), table.column("label")) == (["1.png", "2.png"], ["a", "b"])
    assert assumption in " ".join(table.assumptions)
    assert ("UTF-16" in " ".join(table.assumptions)) == (encoding == "utf-16")


def test_line_breaks_and_delimiters_in_quotes_are_text(tmp_path):
    note = "HE, slide\n" * 50_000
    (tmp_path / "x.csv").write_text(f'path,label,note\n1.png,a,"{note}"\n2.png,b,"x"\n')
    table = read_table(tmp_path / "x.csv", NEEDED)
    assert table.column("label") == ["a", "b"]
    assert table.column("note")[0] == note.strip()


def write_sheets(file, **sheets):
    book = openpyxl.Workbook()
    book.remove(book.active)
    for title, rows in sheets.items():
        sheet = book.create_sheet(title)
        for row in rows:
            sheet.append(row)
    book.save(file)
    return file


def test_excel_sheet_with_the_columns_is_read(tmp_path):
    rows = [("path", "label", "age"), ("1.png", 1, 1.5), ("2.png", 2.0, None), (None, None, None)]
    file = write_sheets(tmp_path / "x.xlsx", notes=[("nothing",)], images=rows)
    table = read_table(file, NEEDED)
    assert (table.column("label"), table.column("age")) == (["1", "2"], ["1.5", ""])
    assert table.assumptions == ("the sheet 'images' is read",)


def write_parquet(file, **columns):
    parquet.write_table(pa.table(columns), file)
    return file


@pytest.mark.parametrize("column", [[["a"], ["b"]], [b"a", b"b"], [{"x": 1}, {"x": 2}]])
def test_parquet_column_without_texts_or_numbers_is_never_a_label(tmp_path, column):
    file = write_parquet(tmp_path / "x.parquet", path=["1.png", "2.png"], label=column)
    with pytest.raises(UserError, match=r"its column 'label' holds .*, but must hold texts"):
        read_table(file, NEEDED)
    file = write_parquet(file, path=["1.png", "2.png"], label=["a", "b"], image=column)
    table = read_table(file, NEEDED)
    assert list(table.header) == list(NEEDED)
    assert table.assumptions == ("columns without texts or numbers are left out: image",)


def test_missing_numbers_of_parquet_are_empty_cells(tmp_path):
    labels = pa.array([1.0, float("nan"), None])
    file = write_parquet(tmp_path / "x.parquet", path=["1.png", "2.png", "3.png"], label=labels)
    assert read_table(file, NEEDED).column("label") == ["1", "", ""]


def test_columns_on_two_sheets_are_refused(tmp_path):
    rows = [NEEDED, ("1.png", "a")]
    with pytest.raises(UserError, match="on several sheets: old, new"):
        read_table(write_sheets(tmp_path / "x.xlsx", old=rows, new=rows), NEEDED)


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("x.csv", b"path,label,label\n1.png,a,a\n", "has 2 columns named 'label'"),
        ("x.csv", b"path,label\n1.png\n", "line 2 has 1 values"),
        ("x.csv", b"path,label\n1.png,\xe4\n", "byte 17 isn't UTF-8"),
        ("x.csv", b'path,label\n1.png,"a\n', "line 2"),
        ("x.csv", b"", "it is empty"),
        ("x.csv", b"file;dx\n1.png;a\n", "must be one of: file, dx"),
        ("x.csv", b"PK\x03\x04\x00\x00", "can't be read|must be one of"),
        ("x.tsv", b"\xff\xfe\x00", "can't be read"),
        ("x.xlsx", b"not a zip", "can't be read"),
        ("x.parquet", b"PAR1 not parquet", "can't be read"),
        ("x.parquet", b"", "can't be read"),
    ],
)
def test_file_that_is_no_table_is_refused_in_one_line(tmp_path, name, content, text):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=text) as caught:
        read_table(tmp_path / name, NEEDED)
    assert "\n" not in str(caught.value)
