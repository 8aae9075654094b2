"""Verified downloads that resume where they were interrupted, with a progress bar."""

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
        UserError: it can't be downloaded. `by_hand` is the value of `data` for a file that the user
            has downloaded.
    """
    folder = disk_cache.acquire_entry(f"downloads/{name}").parent
    partial_file = disk_cache.acquire_entry(f"downloads/{name}.{md5}.part")
    downloader = _ResumingDownloader(partial_file)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # a process that waited here finds the file that another one has downloaded
        with FileLock(folder / f".{name}.lock"):
            file = pooch.retrieve(url, f"md5:{md5}", name, folder, downloader=downloader)  # type: ignore[arg-type]
            return Path(file)
    except (requests.RequestException, ValueError, OSError) as error:
        raise UserError(
            f"{url} can't be downloaded: {error}. Download it by hand and name the file: --data "
            f"{by_hand}."
        ) from error


class _ResumingDownloader:
    """A downloader for pooch that collects the content in its own file until it is complete."""

    def __init__(self, partial_file: Path) -> None:
        self.partial_file = partial_file

    def __call__(
        self, url: str, output_file: Any, pooch: Any, *, check_only: bool | None = None
    ) -> None:
        known_bytes = self.partial_file.stat().st_size if self.partial_file.exists() else 0
        headers = {"Range": f"bytes={known_bytes}-"} if known_bytes else {}
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_S) as response:
            # the server can't satisfy the range if the whole file was downloaded already
            if response.status_code != requests.codes.range_not_satisfiable:
                response.raise_for_status()
                if response.status_code != requests.codes.partial_content:
                    known_bytes = 0
                self._append_content(response, known_bytes)
        self.partial_file.replace(output_file)

    def _append_content(self, response: requests.Response, known_bytes: int) -> None:
        total = int(response.headers.get("Content-Length", 0)) + known_bytes
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TimeRemainingColumn(),
        )
        mode = "ab" if known_bytes else "wb"
        with self.partial_file.open(mode) as file, Progress(*columns) as bar:
            task = bar.add_task("download", total=total or None, completed=known_bytes)
            for block in response.iter_content(BLOCK_BYTES):
                file.write(block)
                bar.advance(task, len(block))
