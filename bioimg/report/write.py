"""Write a report. Most imports happen when it runs, so that the help of a command is instant."""

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import FlagCreatePairsOff, arg

from bioimg.errors import unknown_value_error
from bioimg.report.open_results import open_results, open_unchanged_images

if TYPE_CHECKING:
    from bioimg.report.report_context import ImagesByPath
    from bioimg.report.table_model import Table
    from bioimg.results.result_store import Results

TABLE_FORMATS = ("md", "csv", "tex", "html", "xlsx", "docx", "parquet")


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Choose what a report contains, in which form, and where it is written."""

    rows: str | None = None
    """a condition on settings and measures, such as 'freeze == "none" and batch_size >= 64'"""
    columns: tuple[str, ...] = ()
    """columns to show, in this order: those of trials.parquet, and balanced_accuracy, macro_f1, auroc, ece"""
    sort: tuple[str, ...] = ()
    """columns to sort by: settings in ascending order, measures with the best first"""
    group_by: tuple[str, ...] = ()
    """settings to group by: trials with the same values become one row with mean, standard deviation and number"""
    single: bool = False
    """one row per trial, even if a configuration was repeated with other seeds or folds"""
    at_epoch: int | None = None
    """make only a table of all trials, stopped ones too, as of this epoch"""
    format: Annotated[tuple[str, ...], arg(metavar="md|csv|tex|html|xlsx|docx|parquet ...")] = (
        TABLE_FORMATS
    )
    """formats of the tables"""
    lang: Literal["en", "zh-TW"] = "en"
    """language of headers, captions and notes"""
    preset: Literal["report-2023"] | None = None
    """make the nine tables of the report of 2023 instead"""
    # the help of a flag that is on by default is shown for --no-...
    figures: FlagCreatePairsOff[bool] = True
    """leave out the figures, which take longest"""
    price: float | None = None
    """price of one device-hour, for the cost table"""
    out: Path | None = None
    """write everything to this folder instead"""

    @property
    def selection(self) -> dict[str, Any]:
        """The options that choose another comparison table; empty if none is given."""
        names = ("rows", "columns", "sort", "group_by", "single")
        return {name: value for name in names if (value := getattr(self, name))}


DEFAULT_OPTIONS = ReportOptions()


def write_report(
    folder: str, options: ReportOptions = DEFAULT_OPTIONS, images: "ImagesByPath | None" = None
) -> str:
    """Write a report and print its first table. Return the folder or address of the report.

    images: the images of the experiment by their paths; by default they are read from their files
        where these haven't changed. The page and a figure show the worst mistakes.

    Raises:
        UserError: there are no results, or an option names something that doesn't exist.
    """
    for name in options.format:
        if name not in TABLE_FORMATS:
            raise unknown_value_error("format", name, TABLE_FORMATS)
    results = open_results(folder)
    with _output_folder(folder, options.out) as out:
        _write_outputs(folder, options, results, out, images)
    from bioimg.storage.filesystem import join_path

    return str(options.out or join_path(folder, "report"))


def print_comparison(folder: str) -> None:
    """Print the comparison table and what can be claimed from it, without writing a file.

    Raises:
        UserError: there are no results.
    """
    from bioimg.report import terminal
    from bioimg.report.comparison_table import build_comparison

    results = open_results(folder)
    terminal.print_comparison(results, build_comparison(results))


def _write_outputs(
    folder: str,
    options: ReportOptions,
    results: "Results",
    out: Path,
    images: "ImagesByPath | None",
) -> None:
    from bioimg.report import documents, terminal

    tables = _build_tables(options, results)
    for table in tables:
        documents.write_table(table, out, options.format)
    terminal.print_report(results, tables, out)
    if not (options.preset or options.selection or options.at_epoch is not None):
        _write_page_and_figures(folder, options, results, out, images)


def _build_tables(options: ReportOptions, results: "Results") -> "list[Table]":
    """Return the tables that were asked for; the first one is printed."""
    from bioimg.report import detail_tables, presets
    from bioimg.report.comparison_table import build_comparison

    if options.at_epoch is not None:
        return [detail_tables.epoch_table(results, options.lang, options.at_epoch)]
    if options.preset:
        return presets.report_2023_tables(results, options.lang)
    table = build_comparison(results, **options.selection, lang=options.lang)
    if options.selection:
        return [replace(table, name="selection")]
    return [table, *detail_tables.build_detail_tables(results, options.lang, options.price)]


def _write_page_and_figures(
    folder: str,
    options: ReportOptions,
    results: "Results",
    out: Path,
    images: "ImagesByPath | None",
) -> None:
    from bioimg.report import html_page

    if images is None:
        images = open_unchanged_images(folder, results)
    page = html_page.write_page(results, out / "report.html", options.lang, images)
    print(f"The page to open first: {page}")
    if options.figures:
        from bioimg.report import figures

        paths = figures.write_figures(results, out / "figures", lang=options.lang, images=images)
        print(f"{len(paths)} figures in {out / 'figures'}")


@contextlib.contextmanager
def _output_folder(folder: str, out: Path | None) -> Iterator[Path]:
    """Yield the folder to write to: beside the results or, for an object store, a temporary one that is uploaded."""
    from bioimg.storage.filesystem import is_remote, join_path, open_storage

    if out or not is_remote(folder):
        yield out or Path(folder) / "report"
        return
    with tempfile.TemporaryDirectory() as temporary:
        yield Path(temporary)
        storage = open_storage(folder)
        for file in sorted(path for path in Path(temporary).rglob("*") if path.is_file()):
            name = file.relative_to(temporary).as_posix()
            storage.write(f"report/{name}", file.read_bytes())
    print(f"Uploaded to {join_path(folder, 'report')}")
