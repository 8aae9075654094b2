"""Tables as Parquet that any reader opens, with a checksum of the whole file.

Parquet's own checksums don't cover the footer. Ours stands between the last page and the footer,
where readers of Parquet don't look.
"""

import pyarrow as pa
import pyarrow.parquet as pq

from bioimg.errors import CorruptFileError
from bioimg.storage.checksums import compute_digest

CHECKSUM_TAG = b"bioimg:xxh3-128="
"""The bytes before the checksum."""


def encode_table(table: pa.Table) -> bytes:
    """Return the bytes of a Parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    content = sink.getvalue().to_pybytes()
    footer = _footer_offset(content)
    return content[:footer] + CHECKSUM_TAG + compute_digest(content) + content[footer:]


def decode_table(content: bytes, schema: pa.Schema) -> pa.Table:
    """Return the table that `encode_table` was given, or one that another program wrote.

    Columns that the file lacks are null. A file of another program has no checksum.

    Raises:
        CorruptFileError: These aren't the bytes that `encode_table` returned.
    """
    footer = _footer_offset(content)
    pages, tag, digest = content[:footer].rpartition(CHECKSUM_TAG)
    if tag and digest != compute_digest(pages + content[footer:]):
        raise CorruptFileError("its checksum doesn't match its content")
    try:
        return pq.read_table(pa.BufferReader(content), schema=schema)
    except (pa.ArrowException, ValueError, OSError, KeyError) as error:
        raise CorruptFileError(str(error).splitlines()[0]) from error


def _footer_offset(content: bytes) -> int:
    """Return where the footer begins. Its length is in the four bytes before the final `PAR1`."""
    return max(0, len(content) - 8 - int.from_bytes(content[-8:-4], "little"))
