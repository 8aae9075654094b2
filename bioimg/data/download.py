"""Verified downloads that resume where they were cut off, with a progress bar."""

from pathlib import Path
from typing import Any

import pooch
import requests
from filelock import FileLock
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from bioimg.errors import UserError
from bioimg.storage import disk_cache

TIMEOUT_S = 30
BLOCK_BYTES = 1 << 16


def download_file(url: str, md5: str, name: str, *, by_hand: str) -> Path:
    """Download a file and keep it in the cache under a name.

    Raises:
        UserError: it can't be downloaded. `by_hand` is the value of `data` for a file downloaded by hand.
    """
    folder = disk_cache.acquire_entry(f"downloads/{name}").parent
    fetch = _ResumingDownloader(disk_cache.acquire_entry(f"downloads/{name}.{md5}.part"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f".{name}.lock"):  # processes that waited find the file
            return Path(pooch.retrieve(url, f"md5:{md5}", name, folder, downloader=fetch))  # type: ignore[arg-type]
    except (requests.RequestException, ValueError, OSError) as error:
        raise UserError(
            f"{url} can't be downloaded: {error}. Download it by hand and name the file: --data {by_hand}."
        ) from error


class _ResumingDownloader:
    """A downloader for pooch that collects the content in its own file until it is complete."""

    def __init__(self, partial: Path) -> None:
        self.partial_file = partial

    def __call__(
        self, url: str, output_file: Any, pooch: Any, *, check_only: bool | None = None
    ) -> None:
        done = self.partial_file.stat().st_size if self.partial_file.exists() else 0
        headers = {"Range": f"bytes={done}-"} if done else {}
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_S) as response:
            if (
                response.status_code != requests.codes.range_not_satisfiable
            ):  # nothing is left to download
                response.raise_for_status()
                self._append_content(
                    response, done if response.status_code == requests.codes.partial_content else 0
                )
        self.partial_file.replace(output_file)

    def _append_content(self, response: requests.Response, done: int) -> None:
        total = int(response.headers.get("Content-Length", 0)) + done or None
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TimeRemainingColumn(),
        )
        with self.partial_file.open("ab" if done else "wb") as file, Progress(*columns) as bar:
            task = bar.add_task("download", total=total, completed=done)
            for block in response.iter_content(BLOCK_BYTES):
                file.write(block)
                bar.advance(task, len(block))
