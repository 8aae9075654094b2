"""A table that is made block by block, and goes on where it was interrupted.

The blocks lie in a folder beside the table, `TABLE.partial`, until the table is written.
"""

import contextlib
import hashlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa

from bioimg.errors import CorruptFileError, UserError
from bioimg.storage.atomic_write import atomic_write
from bioimg.storage.checked_parquet import decode_table, encode_table
from bioimg.storage.process_lock import lock_if_unused


class PartialTable:
    """The blocks of a table that one process makes; see `open_partial_table`."""

    def __init__(self, path: Path, identity: str, schema: pa.Schema) -> None:
        self._path = path
        self._folder = _partial_folder(path)
        self._prefix = f"block-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"
        self._schema = schema

    @property
    def block_count(self) -> int:
        """The number of blocks that exist."""
        return len(list(self._folder.glob(f"{self._prefix}-*")))

    def delete_other_blocks(self) -> int:
        """Delete the blocks of another identity. Return how many there were."""
        others = [
            file
            for file in self._folder.glob("block-*")
            if not file.name.startswith(f"{self._prefix}-")
        ]
        for file in others:
            file.unlink()
        return len(others)

    def read_block(self, number: int) -> pa.Table | None:
        """Return a block; None if it doesn't exist or is damaged."""
        try:
            return decode_table(self._block_file(number).read_bytes(), self._schema)
        except (FileNotFoundError, CorruptFileError):
            return None

    def write_block(self, number: int, block: pa.Table) -> None:
        """Keep a block, which is written whole or not at all.

        Raises:
            UserError: it can't be written.
        """
        with _explain_write_errors(self._path):
            atomic_write(self._block_file(number), encode_table(block))

    def publish(self, write: Callable[[Path], object]) -> None:
        """Make the table, whole or not at all: `write` fills a file that then gets its name.

        Raises:
            UserError: it can't be written.
        """
        with _explain_write_errors(self._path):
            unfinished = self._folder / self._path.name
            write(unfinished)
            unfinished.replace(self._path)

    def _block_file(self, number: int) -> Path:
        return self._folder / f"{self._prefix}-{number:06d}.parquet"


@contextlib.contextmanager
def open_partial_table(path: Path, identity: str, schema: pa.Schema) -> Iterator[PartialTable]:
    """Keep the blocks of a table, if there are any, until the `with` ends without an error.

    Args:
        path: the table.
        identity: what the content of the table depends on. Blocks of another identity aren't used.
        schema: that of each block.

    Raises:
        UserError: the folder can't be written, or another process makes this table.
    """
    folder = _partial_folder(path)
    with _explain_write_errors(path):
        folder.mkdir(parents=True, exist_ok=True)
        lock_file = folder / "lock"
        lock_file.touch()
    with lock_if_unused(lock_file) as is_locked:
        if not is_locked:
            raise UserError(
                f"the value of `out` is {str(path)!r}, which another process is making. Wait for "
                "it, or name another file with --out."
            )
        partial = PartialTable(path, identity, schema)
        is_finished = False
        try:
            yield partial
            is_finished = True
        finally:
            if is_finished or not partial.block_count:
                shutil.rmtree(folder, ignore_errors=True)


def _partial_folder(path: Path) -> Path:
    return path.with_name(f"{path.name}.partial")


@contextlib.contextmanager
def _explain_write_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"the value of `out` is {str(path)!r}, which can't be written: {error}."
        ) from error
