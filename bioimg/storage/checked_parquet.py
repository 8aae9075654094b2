"""Tables as Parquet that any reader opens, with a checksum of the whole file: Parquet's own don't cover the footer."""

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from bioimg.errors import CorruptFileError

CHECKSUM_TAG = b"bioimg:xxh3-128="
"""With the digest it is between the last page and the footer, which readers of Parquet ignore."""


def encode_table(table: pa.Table) -> bytes:
    """The bytes of a Parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    content = sink.getvalue().to_pybytes()
    pages = _footer_offset(content)
    return content[:pages] + CHECKSUM_TAG + _content_digest(content) + content[pages:]


def decode_table(content: bytes, known: pa.Schema) -> pa.Table:
    """The table that `encode` was given. Columns that a file lacks are null; a file of another program has no checksum.

    Raises:
        Damaged: these aren't the bytes that `encode` returned.
    """
    pages = _footer_offset(content)
    before, mark, claimed = content[:pages].rpartition(CHECKSUM_TAG)
    if mark and claimed != _content_digest(before + content[pages:]):
        raise CorruptFileError("its checksum isn't that of what it holds")
    try:
        return pq.read_table(pa.BufferReader(content), schema=known)
    except (pa.ArrowException, ValueError, OSError, KeyError) as error:
        raise CorruptFileError(str(error).splitlines()[0]) from error


def _footer_offset(content: bytes) -> int:
    """Where the footer begins: its length is in the four bytes before the last four, which are `PAR1`."""
    return max(0, len(content) - 8 - int.from_bytes(content[-8:-4], "little"))


def _content_digest(content: bytes) -> bytes:
    return xxhash.xxh3_128_digest(content)
