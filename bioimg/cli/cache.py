"""`bioimg cache`: show what is kept between runs, or remove it."""

from dataclasses import dataclass

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from bioimg.storage import disk_cache
from bioimg.text import replace_controls


@dataclass(frozen=True, kw_only=True)
class CacheCommand:
    """Show what is kept between runs: decoded images, features, downloads. All of it can be made again."""

    clear: bool = False
    """Remove everything that no process is using."""

    def run(self, console: Console | None = None) -> int:
        """Print it; returns the exit code.

        Raises:
            UserError: `BIOIMG_CACHE_GB` isn't a number.
        """
        console = console or Console()
        kept = disk_cache.list_entries()
        if self.clear:
            gone = [one for one in kept if disk_cache.remove_entry(one.name)]
            console.print(
                f"removed {_format_total(gone)}"
                + (f"; {len(kept) - len(gone)} in use stay" if gone != kept else "")
            )
            return 0
        if kept:
            console.print(_entry_table(kept))
        total = sum(one.size_bytes for one in kept)
        console.print(
            f"{_format_total(kept)} in {disk_cache.cache_folder()}, at most {decimal(int(disk_cache.max_cache_bytes(total)))}",
            soft_wrap=True,
        )
        return 0


def _entry_table(kept: list[disk_cache.CacheEntry]) -> Table:
    table = Table("entry", "what", "size", "last used")
    table.columns[2].justify = "right"
    for one in reversed(kept):
        table.add_row(
            one.name,
            Text(replace_controls(one.description)),
            decimal(one.size_bytes),
            f"{one.last_used.astimezone():%Y-%m-%d %H:%M}",
        )
    return table


def _format_total(kept: list[disk_cache.CacheEntry]) -> str:
    return f"{len(kept)} {'entry' if len(kept) == 1 else 'entries'} of {decimal(sum(one.size_bytes for one in kept))}"
