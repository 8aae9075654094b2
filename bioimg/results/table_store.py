"""The tables of a results folder while many processes write: each trial writes its own parts, one process merges them."""

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from bioimg.errors import CorruptFileError, UserError
from bioimg.results import schema
from bioimg.storage.checked_parquet import decode_table, encode_table
from bioimg.storage.filesystem import Storage, join_path

TABLE_SCHEMAS = {
    "trials": schema.TRIALS_SCHEMA,
    "epochs": schema.EPOCHS_SCHEMA,
    "predictions": schema.PREDICTIONS_SCHEMA,
}

log = logging.getLogger("bioimg")


class TableStore:
    """The tables of a folder, which messages call `shown`."""

    def __init__(self, files: Storage, shown: str) -> None:
        self._storage, self._display_name = files, shown

    def write(self, table: str, key: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write all rows that one trial has in one table so far, in place of those it had.

        The epochs of a running trial are written again with each epoch, so they aren't flushed to the disk.
        """
        content = encode_table(pa.Table.from_pylist(list(rows), schema=TABLE_SCHEMAS[table]))
        self._storage.write(_part_name(key, table), content, flush=table != "epochs")

    def trial_rows(self, table: str, key: str) -> list[dict[str, Any]]:
        """What one trial has in one table."""
        rows = self._read_part(_part_name(key, table))
        if rows is None:
            rows = _merge_parts(table, self.merged_table(table), {}).filter(pc.field("key") == key)
        return rows.to_pylist()

    def merge(self, order: Iterable[str] = ()) -> None:
        """Bring the tables up to date with the parts, rows of the trials named in `order` first and in that order.

        The table of trials is written last, and parts are deleted only afterwards: if this is interrupted, the next merge
        repairs it. Before that, each table is kept as TABLE.previous.parquet, and parts are deleted only by a later merge that
        finds exactly their rows in the table, so that a damaged table can be made again from these.
        A damaged part counts as missing, and its rows are computed again.
        """
        order = list(order)
        parts, ended = self._read_parts(), self.merged_table("trials")
        for table in ("predictions", "epochs", "trials"):
            merged = self.merged_table(table)
            if merged is not None and not parts[table] and not order:
                continue
            content = encode_table(_sort_rows(_merge_parts(table, merged, parts[table]), order))
            if merged is not None:
                if not parts[table] and content == self._storage.read(f"{table}.parquet"):
                    continue
                self._storage.write(f"{table}.previous.parquet", encode_table(merged))
            self._storage.write(f"{table}.parquet", content)
        for key, part in parts["trials"].items():
            if ended is not None and ended.filter(pc.field("key") == key).equals(part):
                for table in TABLE_SCHEMAS:
                    self._storage.delete(_part_name(key, table))

    def merge_and_delete_parts(self, order: Iterable[str]) -> None:
        """Leave no part of a trial that has ended, while nobody writes. Otherwise a merge, when it deletes such a part, could
        delete the part that the trial has written since, on being trained further."""
        order = list(order)
        self.merge(order)
        self.merge(order)

    def all_rows(self, table: str) -> list[dict[str, Any]]:
        """All rows of one table, those of parts replacing merged ones."""
        return self._current_table(table).to_pylist()

    def trial_statuses(self) -> dict[str, str]:
        """The status of every trial that has ended, by key."""
        return {
            row["key"]: row["status"]
            for row in self._current_table("trials").select(["key", "status"]).to_pylist()
        }

    def last_epochs(self) -> dict[str, dict[str, Any]]:
        """The last epoch of every trial that has one, running ones included, by key."""
        return {row["key"]: row for row in self.all_rows("epochs")}

    def epoch_counts(self) -> dict[str, int]:
        """How many epochs of every trial are on record, by key."""
        return {
            row["key"]: row["epoch"]
            for row in self._current_table("epochs").select(["key", "epoch"]).to_pylist()
        }

    def merged_table(self, table: str) -> pa.Table | None:
        """A table as of the last merge; None if there was none. If it is damaged, that of the merge before, with a warning.

        Raises:
            UserError: both are damaged.
        """
        try:
            return decode_table(self._storage.read(f"{table}.parquet"), TABLE_SCHEMAS[table])
        except FileNotFoundError:
            return None
        except CorruptFileError as error:
            return self._read_previous(table, error)

    def _current_table(self, table: str) -> pa.Table:
        parts = self._read_parts()[
            table
        ]  # before the table, so that what is merged in between is in both
        return _merge_parts(table, self.merged_table(table), parts)

    def _read_parts(self) -> dict[str, dict[str, pa.Table]]:
        """What the parts hold, by table and key. A trial with a damaged part is left out, so that it runs again."""
        held: dict[str, dict[str, pa.Table]] = {table: {} for table in TABLE_SCHEMAS}
        damaged = set()
        for name in self._storage.names("parts"):
            key, table, _ = name.removeprefix("parts/").split(".")
            rows = self._read_part(name)
            if rows is None:
                damaged.add(key)
            else:
                held[table][key] = rows
        return {
            table: {key: rows for key, rows in parts.items() if key not in damaged}
            for table, parts in held.items()
        }

    def _read_part(self, name: str) -> pa.Table | None:
        """The rows of a part; None if there is none, or, with a warning, if it is damaged."""
        try:
            return decode_table(self._storage.read(name), TABLE_SCHEMAS[name.split(".")[-2]])
        except FileNotFoundError:
            return None
        except CorruptFileError as error:
            log.warning(
                "%s is damaged (%s): it is ignored, and its rows are computed again.",
                join_path(self._display_name, name),
                error,
            )
            return None

    def _read_previous(self, table: str, damage: CorruptFileError) -> pa.Table:
        name = f"{table}.parquet"
        try:
            rows = decode_table(
                self._storage.read(f"{table}.previous.parquet"), TABLE_SCHEMAS[table]
            )
        except (FileNotFoundError, CorruptFileError):
            raise UserError(
                f"{join_path(self._display_name, name)} is damaged ({damage}). Replace it with a copy, or delete trials.parquet, "
                "epochs.parquet and predictions.parquet there and run the same command again to compute their rows again."
            ) from damage
        log.warning(
            "%s is damaged (%s): its previous version is used. Running the experiment's command again repairs it.",
            join_path(self._display_name, name),
            damage,
        )
        return rows


def _part_name(key: str, table: str) -> str:
    return f"parts/{key}.{table}.parquet"


def _merge_parts(table: str, merged: pa.Table | None, parts: Mapping[str, pa.Table]) -> pa.Table:
    """The rows of a table and of its parts, which replace those of the same trials."""
    kept = (
        []
        if merged is None
        else [merged.filter(~pc.field("key").isin(pa.array(list(parts), pa.string())))]
    )
    return pa.concat_tables([TABLE_SCHEMAS[table].empty_table(), *kept, *parts.values()])


def _sort_rows(rows: pa.Table, order: list[str]) -> pa.Table:
    """Rows of the trials named in `order` first and in that order, the others after them as they were."""
    rank = {key: position for position, key in enumerate(order)}
    places = [rank.get(key, len(rank)) for key in rows["key"].to_pylist()]
    return rows.take(pa.array(sorted(range(len(places)), key=places.__getitem__), pa.int64()))
