"""The one checksum of everything that is stored: XXH3 with 128 bits. It finds damage, not forgery.

Sealed content begins with its checksum. Formats that other programs read keep the checksum where
those programs don't look (see `checked_parquet`).
"""

import xxhash

from bioimg.errors import CorruptFileError

DIGEST_BYTES = xxhash.xxh3_128().digest_size


def compute_digest(content: bytes | memoryview) -> bytes:
    """Return the checksum of content."""
    return xxhash.xxh3_128_digest(content)


def seal(content: bytes) -> bytes:
    """Return content behind its checksum."""
    return compute_digest(content) + content


def seal_in_place(buffer: memoryview) -> None:
    """Write the checksum into the first `DIGEST_BYTES` of a buffer, which copies nothing.

    The content is the rest of the buffer.
    """
    buffer[:DIGEST_BYTES] = compute_digest(buffer[DIGEST_BYTES:])


def unseal(sealed: bytes) -> memoryview:
    """Return the content that was sealed, without copying it.

    Raises:
        CorruptFileError: The content isn't the one that was sealed.
    """
    content = memoryview(sealed)[DIGEST_BYTES:]
    if compute_digest(content) != sealed[:DIGEST_BYTES]:
        raise CorruptFileError("its checksum doesn't match its content")
    return content
