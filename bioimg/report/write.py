"""Write a report. Most imports happen when it runs, so that the help of a command is instant."""

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import arg

from bioimg.errors import UserError, unknown_value_error
from bioimg.report.open_results import open_results, open_unchanged_images

if TYPE_CHECKING:
    from bioimg.report.analysis import Analysis
    from bioimg.report.report_context import ImagesByPath
    from bioimg.report.table_model import Table
    from bioimg.results.looks import Look

TABLE_FORMATS = ("md", "csv", "tex", "html", "xlsx", "docx", "parquet")
TABLE_NAMES = (
    "comparison",
    "per-class",
    "confusion",
    "scores",
    "effects",
    "differences-best",
    "external",
    "groups",
    "groups-per-class",
    "curves",
    "tuning",
    "cost",
    "at-epoch",
    "differences",
)
DEFAULT_TABLES = ("comparison",)
SELECTION_FIELDS = ("rows", "columns", "sort", "group_by", "single")


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Choose what a report contains, in which form, and where it is written."""

    tables: Annotated[
        tuple[str, ...],
        arg(
            metavar="all|NAME ...",
            help=f"tables to make: `all` that aren't empty, or {', '.join(TABLE_NAMES)}",
        ),
    ] = DEFAULT_TABLES
    format: Annotated[tuple[str, ...], arg(metavar="md|csv|tex|html|xlsx|docx|parquet ...")] = (
        "csv",
        "xlsx",
        "docx",
    )
    """Formats of the tables"""
    methods: bool = False
    """Also write what was done as a methods section, with checklists of TRIPOD+AI and CLAIM"""
    figures: bool = False
    """Draw figures for papers and slides, as PNG, SVG and PDF"""
    lang: Literal["en", "zh-TW"] = "en"
    """Language of headers, captions and notes"""
    price: float | None = None
    """Price of one device-hour; adds the cost table"""
    out: Path | None = None
    """Write everything to this folder instead"""
    rows: str | None = None
    """Condition on settings and measures, such as 'freeze == "none" and batch_size >= 64'"""
    columns: tuple[str, ...] = ()
    """Columns of trials.parquet and balanced_accuracy, macro_f1, auroc, ece, in this order"""
    sort: tuple[str, ...] = ()
    """Columns to sort by: settings in ascending order, measures with the best first"""
    group_by: tuple[str, ...] = ()
    """Settings; trials with equal values become one row with mean, deviation and number"""
    single: bool = False
    """One row per trial, even if a configuration was repeated with other seeds or folds"""
    at_epoch: int | None = None
    """Make only a table of all trials, stopped ones too, as of this epoch"""

    @property
    def selection(self) -> dict[str, Any]:
        """The options that choose another comparison table; empty if none is given."""
        values = {name: getattr(self, name) for name in SELECTION_FIELDS}
        return {name: value for name, value in values.items() if value}

    @property
    def has_own_tables(self) -> bool:
        """True if an option replaces the tables of a whole report, and the page with them."""
        return bool(self.selection or self.at_epoch is not None)

    def check(self) -> None:
        """Check the names of tables and formats.

        Raises:
            UserError: a name is unknown, or `tables` is combined with options that replace them.
        """
        if not self.tables:
            raise UserError(
                "the value of `tables` is empty, but must be `all` or names of tables. Leave it "
                "out for the comparison."
            )
        for name in self.format:
            if name not in TABLE_FORMATS:
                raise unknown_value_error("format", name, TABLE_FORMATS)
        for name in self.tables:
            if name not in ("all", *TABLE_NAMES):
                raise unknown_value_error("tables", name, ("all", *TABLE_NAMES))
        if self.has_own_tables and self.tables != DEFAULT_TABLES:
            raise UserError(
                f"the value of `tables` is {' '.join(self.tables)}, but must be left out where "
                "rows, columns, sort, group_by, single or at_epoch choose a table. Make two "
                "reports."
            )


DEFAULT_OPTIONS = ReportOptions()


def write_report(
    folder: str,
    options: ReportOptions = DEFAULT_OPTIONS,
    images: "ImagesByPath | None" = None,
    overlays: "ImagesByPath | None" = None,
) -> str:
    """Write a report and print its first table.

    Args:
        folder: the results folder or its address.
        options: what the report contains.
        images: the images of the experiment by their paths, of which the page shows the worst
            mistakes. By default they are read from their files where these haven't changed.
        overlays: the worst mistakes with a map of where the model finds its wrong answer.

    Returns:
        The folder or address of the report.

    Raises:
        UserError: there are no results, or an option names something that doesn't exist.
    """
    from bioimg.report import documents, terminal
    from bioimg.report.analysis import Analysis
    from bioimg.report.report_context import ReportContext
    from bioimg.results.looks import record_look
    from bioimg.storage.filesystem import join_path

    options.check()
    analysis = Analysis(open_results(folder))
    tables = _build_tables(options, analysis)
    terminal.print_table(ReportContext(analysis, options.lang), tables[0])
    # a table at an epoch shows validation images only
    completed = analysis.status_counts["completed"] if options.at_epoch is None else 0
    looks = record_look(folder, completed)
    location = str(options.out or join_path(folder, "report"))
    with _output_folder(folder, options.out) as out:
        for table in tables:
            documents.write_table(table, out, options.format)
        if options.format:
            names = ", ".join(table.name for table in tables)
            print(f"\nTables in {location}: {names} ({', '.join(options.format)})")
        if options.methods:
            _write_methods(options, analysis, looks, out)
            print(f"Methods section in {join_path(location, 'methods.md')}")
        if not options.has_own_tables:
            if images is None:
                images = open_unchanged_images(folder, analysis.results)
            _write_page_and_figures(options, analysis, out, location, images, overlays)
    return location


def print_comparison(folder: str) -> None:
    """Print the comparison table and what can be claimed from it, without writing a file.

    Raises:
        UserError: there are no results.
    """
    from bioimg.report import terminal
    from bioimg.report.analysis import Analysis
    from bioimg.report.comparison_table import build_comparison
    from bioimg.report.report_context import ReportContext
    from bioimg.results.looks import record_look

    analysis = Analysis(open_results(folder))
    terminal.print_table(ReportContext(analysis), build_comparison(analysis))
    record_look(folder, analysis.status_counts["completed"])


def print_external_set(folder: str, name: str) -> None:
    """Print what recipes reached on an external set and at home, without writing a file.

    Raises:
        UserError: there are no results.
    """
    from bioimg.report import terminal
    from bioimg.report.analysis import Analysis
    from bioimg.report.report_context import ReportContext
    from bioimg.results.looks import record_look

    analysis = Analysis(open_results(folder))
    terminal.print_external_set(ReportContext(analysis), name)
    record_look(folder, analysis.status_counts["completed"])


def _build_tables(options: ReportOptions, analysis: "Analysis") -> "list[Table]":
    """Return the tables that were asked for; the first one is printed."""
    from bioimg.report import detail_tables
    from bioimg.report.comparison_table import build_comparison

    if options.at_epoch is not None:
        return [detail_tables.epoch_table(analysis, options.lang, options.at_epoch)]
    if options.selection:
        table = build_comparison(analysis, **options.selection, lang=options.lang)
        return [replace(table, name="selection")]
    if "all" in options.tables:
        comparison = build_comparison(analysis, lang=options.lang)
        details = detail_tables.build_detail_tables(analysis, options.lang, options.price)
        return [comparison, *details]
    tables = []
    names = [*options.tables, "cost"] if options.price is not None else options.tables
    for name in dict.fromkeys(names):
        if name == "comparison":
            tables.append(build_comparison(analysis, lang=options.lang))
        else:
            tables.append(
                detail_tables.build_detail_table(name, analysis, options.lang, options.price)
            )
    return tables


def _write_methods(
    options: ReportOptions, analysis: "Analysis", looks: "list[Look]", out: Path
) -> None:
    from bioimg.report.methods.write_methods import write_methods

    word = "docx" in options.format
    write_methods(analysis, looks, out, lang=options.lang, word=word)


def _write_page_and_figures(
    options: ReportOptions,
    analysis: "Analysis",
    out: Path,
    location: str,
    images: "ImagesByPath",
    overlays: "ImagesByPath | None",
) -> None:
    from bioimg.report import html_page
    from bioimg.storage.filesystem import join_path

    page = out / "report.html"
    html_page.write_page(analysis, page, options.lang, images, overlays)
    if options.figures:
        from bioimg.report import figures

        folder = out / "figures"
        paths = figures.write_figures(analysis, folder, lang=options.lang, images=images)
        print(f"{len(paths)} figures in {join_path(location, folder.name)}")
    print(f"The page to open first: {join_path(location, page.name)}")


@contextlib.contextmanager
def _output_folder(folder: str, out: Path | None) -> Iterator[Path]:
    """Yield the folder to write to: `out`, or a folder beside the results.

    For results in an object store it is a temporary one, which is uploaded afterwards.
    """
    from bioimg.storage.filesystem import is_remote, open_storage

    if out or not is_remote(folder):
        yield out or Path(folder) / "report"
        return
    with tempfile.TemporaryDirectory() as temporary_folder:
        root = Path(temporary_folder)
        yield root
        storage = open_storage(folder)
        for file in sorted(root.rglob("*")):
            if file.is_file():
                name = file.relative_to(root).as_posix()
                storage.write(f"report/{name}", file.read_bytes())
