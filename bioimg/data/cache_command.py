"""`bioimg cache`: show what is kept between runs, or remove it."""

from dataclasses import dataclass

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from bioimg.data import cache
from bioimg.data.listing import visible


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
        kept = cache.entries()
        if self.clear:
            gone = [one for one in kept if cache.remove(one.name)]
            console.print(f"removed {_told(gone)}" + (f"; {len(kept) - len(gone)} in use stay" if gone != kept else ""))
            return 0
        if kept:
            console.print(_table(kept))
        total = sum(one.bytes for one in kept)
        console.print(f"{_told(kept)} in {cache.folder()}, at most {decimal(int(cache.limit(total)))}", soft_wrap=True)
        return 0


def _table(kept: list[cache.Entry]) -> Table:
    table = Table("entry", "what", "size", "last used")
    table.columns[2].justify = "right"
    for one in reversed(kept):
        table.add_row(one.name, Text(visible(one.about)), decimal(one.bytes), f"{one.used.astimezone():%Y-%m-%d %H:%M}")
    return table


def _told(kept: list[cache.Entry]) -> str:
    return f"{len(kept)} {'entry' if len(kept) == 1 else 'entries'} of {decimal(sum(one.bytes for one in kept))}"
