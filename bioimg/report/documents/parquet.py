"""Write Parquet: the raw values, unrounded, with caption, notes and fingerprint as metadata."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from bioimg.report.table_model import Table


def write_table(table: Table, path: Path) -> None:
    """Write the raw values of a table to a Parquet file."""
    content = pa.Table.from_pandas(table.values, preserve_index=False)
    metadata = {
        **(content.schema.metadata or {}),
        "caption": table.caption,
        "notes": json.dumps(table.notes),
        "fingerprint": table.results_digest,
    }
    pq.write_table(content.replace_schema_metadata(metadata), path)
