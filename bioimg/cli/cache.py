"""The command `bioimg cache`: show what is kept between runs, or remove it."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from bioimg.storage import disk_cache
from bioimg.text import replace_controls


@dataclass(frozen=True, kw_only=True)
class CacheCommand:
    """Show what is kept between runs: decoded images, features, downloads.

    All of it can be made again.
    """

    clear: bool = False
    """Remove everything that no process is using"""

    def run(self, console: Console | None = None) -> int:
        """Print the entries, or remove them. Return the exit code.

        Raises:
            UserError: `BIOIMG_CACHE_GB` isn't a number.
        """
        console = console or Console()
        entries = disk_cache.list_entries()
        if self.clear:
            _clear_cache(entries, console)
            return 0
        if entries:
            console.print(_entry_table(entries))
        used = sum(entry.size_bytes for entry in entries)
        limit = decimal(int(disk_cache.max_cache_bytes(used)))
        folder = disk_cache.cache_folder()
        console.print(f"{_format_total(entries)} in {folder}, at most {limit}", soft_wrap=True)
        return 0


def _clear_cache(entries: Sequence[disk_cache.CacheEntry], console: Console) -> None:
    removed = [entry for entry in entries if disk_cache.remove_entry(entry.name)]
    message = f"removed {_format_total(removed)}"
    in_use = len(entries) - len(removed)
    if in_use:
        message += f"; {in_use} in use stay"
    console.print(message)


def _entry_table(entries: Sequence[disk_cache.CacheEntry]) -> Table:
    table = Table("entry", "what", "size", "last used")
    table.columns[2].justify = "right"
    for entry in reversed(entries):
        table.add_row(
            entry.name,
            Text(replace_controls(entry.description)),
            decimal(entry.size_bytes),
            f"{entry.last_used.astimezone():%Y-%m-%d %H:%M}",
        )
    return table


def _format_total(entries: Sequence[disk_cache.CacheEntry]) -> str:
    size = decimal(sum(entry.size_bytes for entry in entries))
    return f"{len(entries)} {'entry' if len(entries) == 1 else 'entries'} of {size}"
