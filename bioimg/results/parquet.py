"""Tables as Parquet that any reader opens, with a checksum of the whole file: Parquet's own don't cover the footer."""

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

MARK = b"bioimg:xxh3-128="
"""With the digest it is between the last page and the footer, which readers of Parquet ignore."""


class Damaged(ValueError):
    """The bytes of a file aren't those that were written."""


def encode(table: pa.Table) -> bytes:
    """The bytes of a Parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    content = sink.getvalue().to_pybytes()
    pages = _footer(content)
    return content[:pages] + MARK + _digest(content) + content[pages:]


def decode(content: bytes, known: pa.Schema) -> pa.Table:
    """The table that `encode` was given. Columns that a file lacks are null; a file of another program has no checksum.

    Raises:
        Damaged: these aren't the bytes that `encode` returned.
    """
    pages = _footer(content)
    before, mark, claimed = content[:pages].rpartition(MARK)
    if mark and claimed != _digest(before + content[pages:]):
        raise Damaged("its checksum isn't that of what it holds")
    try:
        return pq.read_table(pa.BufferReader(content), schema=known)
    except (pa.ArrowException, ValueError, OSError, KeyError) as error:
        raise Damaged(str(error).splitlines()[0]) from error


def _footer(content: bytes) -> int:
    """Where the footer begins: its length is in the four bytes before the last four, which are `PAR1`."""
    return max(0, len(content) - 8 - int.from_bytes(content[-8:-4], "little"))


def _digest(content: bytes) -> bytes:
    return xxhash.xxh3_128_digest(content)
