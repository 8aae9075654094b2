"""The results folder: the one place that knows its file names. Writing is atomic; reading needs no Ray and no torch.

experiment.json        what was asked, of which data, by which versions; `complete` is set last
trials.parquet         the comparison table, one row per ended trial
epochs.parquet         one row per trial and epoch
predictions.parquet    one row per completed trial, split (val, test) and image
parts/KEY.*.parquet    the same rows of trials that ended since the last merge, or still run
checkpoints/KEY/       best.safetensors and, while the trial can go on, resume.pt
"""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bioimg.config import UserError
from bioimg.results import schema

TABLES = {"trials": schema.TRIALS, "epochs": schema.EPOCHS, "predictions": schema.PREDICTIONS}


def replace(path: Path, write: Callable[[Path], object]) -> None:
    """Write under a temporary name, then rename: a reader sees the old file or the new one, never half of one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    write(temporary)
    temporary.replace(path)


@dataclass(frozen=True)
class Results:
    """What a results folder holds: experiment.json and the three tables, in the order of the grid."""

    experiment: dict[str, Any]
    trials: pd.DataFrame
    epochs: pd.DataFrame
    predictions: pd.DataFrame


class Store:
    """A results folder that is being written."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.parts = self.folder / "parts"
        self.engine = self.folder.absolute() / "engine"

    def checkpoint(self, key: str) -> Path:
        """The folder of one trial's tensors."""
        return self.folder / "checkpoints" / key

    def check(self, name: str) -> None:
        """Find out, before anything is read, whether the folder can take the results of an experiment.

        Raises:
            UserError: it holds another experiment, or something that is none.
        """
        if self._manifest.exists():
            self._same("name", name)
        elif self.folder.exists() and not self.folder.is_dir():
            raise UserError(
                f"the value of `out` is {self.folder}, but must be a folder, and this is a file. Name another with --out."
            )
        elif self.folder.exists() and any(self.folder.iterdir()):
            raise UserError(
                f"the value of `out` is {self.folder}, but must be a new or empty folder, or one with results, and this one "
                "holds something else. Name another with --out."
            )

    def begin(self, description: Mapping[str, Any]) -> None:
        """Claim the folder for an experiment, or go on with it.

        Raises:
            UserError: the folder holds another experiment, or the same one on other data; says what differs.
        """
        self.check(description["name"])
        if self._manifest.exists():
            self._same("data fingerprint", description["data"]["fingerprint"])
        self.parts.mkdir(parents=True, exist_ok=True)
        self.describe({**description, "complete": False})

    def describe(self, description: Mapping[str, Any]) -> None:
        """Write experiment.json."""
        replace(self._manifest, lambda path: path.write_text(json.dumps(description, indent=2) + "\n"))

    def write_images(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write which image went where."""
        content = pa.Table.from_pylist(list(rows), schema=schema.IMAGES)
        replace(self.folder / "images.parquet", lambda path: pq.write_table(content, path))

    def write(self, table: str, key: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write all rows that one trial has in one table so far, in place of those it had."""
        content = pa.Table.from_pylist(list(rows), schema=TABLES[table])
        replace(self.parts / f"{key}.{table}.parquet", lambda path: pq.write_table(content, path))

    def rows(self, table: str, key: str) -> list[dict[str, Any]]:
        """What one trial has in one table."""
        part = self.parts / f"{key}.{table}.parquet"
        if part.exists():
            return pq.read_table(part, schema=TABLES[table]).to_pylist()
        merged = self._table(table)
        return merged.filter(pc.field("key") == key).to_pylist() if merged is not None else []

    def merge(self, order: Iterable[str] = ()) -> None:
        """Bring the tables up to date with the parts, rows of the trials named in `order` first and in that order.

        The table of trials is written last and parts go only afterwards: whenever this is cut off, the next merge mends it.
        """
        rank = {key: position for position, key in enumerate(order)}
        ended = {path.name.split(".")[0] for path in self.parts.glob("*.trials.parquet")}
        for table in ("predictions", "epochs", "trials"):
            parts = sorted(self.parts.glob(f"*.{table}.parquet"))
            merged = self._table(table)
            if not parts and merged is not None:
                continue
            content = pa.concat_tables(
                [pq.read_table(path, schema=TABLES[table]) for path in parts] or [TABLES[table].empty_table()]
            )
            if merged is not None:
                fresh = [path.name.split(".")[0] for path in parts]
                content = pa.concat_tables([merged.filter(~pc.field("key").isin(fresh)), content])
            places = [rank.get(key, len(rank)) for key in content["key"].to_pylist()]
            content = content.take(pa.array(sorted(range(len(places)), key=places.__getitem__), pa.int64()))
            replace(self.folder / f"{table}.parquet", lambda path, content=content: pq.write_table(content, path))
        for key in ended:
            for table in TABLES:
                (self.parts / f"{key}.{table}.parquet").unlink(missing_ok=True)

    def every(self, table: str) -> list[dict[str, Any]]:
        """All rows of one table: those of parts in place of merged ones."""
        parts = {path.name.split(".")[0]: path for path in sorted(self.parts.glob(f"*.{table}.parquet"))}
        merged = self._table(table)
        fresh = pa.array(list(parts), pa.string())
        rows = merged.filter(~pc.field("key").isin(fresh)).to_pylist() if merged is not None else []
        return rows + [row for path in parts.values() for row in pq.read_table(path, schema=TABLES[table]).to_pylist()]

    def statuses(self) -> dict[str, str]:
        """The status of every trial that has ended, by key."""
        merged = self._table("trials")
        tables = [pq.read_table(path) for path in self.parts.glob("*.trials.parquet")] + (
            [merged] if merged is not None else []
        )
        return {row["key"]: row["status"] for table in reversed(tables) for row in table.select(["key", "status"]).to_pylist()}

    def _same(self, what: str, value: str) -> None:
        held = json.loads(self._manifest.read_text())
        known = held["name"] if what == "name" else held["data"]["fingerprint"]
        if known != value:
            raise UserError(
                f"the value of `out` is {self.folder}, but that folder holds another experiment: its {what} is {known!r}, "
                f"this one's is {value!r}. Name another folder with --out."
            )

    @property
    def _manifest(self) -> Path:
        return self.folder / "experiment.json"

    def _table(self, table: str) -> pa.Table | None:
        path = self.folder / f"{table}.parquet"
        return pq.read_table(path, schema=TABLES[table]) if path.exists() else None


def read(folder: str | Path) -> Results:
    """Read a results folder, also of a running experiment (as of its last merge).

    Raises:
        UserError: it isn't one.
    """
    folder = Path(folder)
    missing = [name for name in ("experiment.json", *(f"{table}.parquet" for table in TABLES)) if not (folder / name).exists()]
    if missing:
        raise UserError(f"{folder} isn't a folder of results: it lacks {', '.join(missing)}. Name one that grid.py wrote.")
    tables = {name: pq.read_table(folder / f"{name}.parquet", schema=known).to_pandas() for name, known in TABLES.items()}
    return Results(experiment=json.loads((folder / "experiment.json").read_text()), **tables)
