"""The tables of a results folder while many processes write.

Each trial writes its own parts, and one process merges them into the tables.
"""

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from bioimg.errors import CorruptFileError, UserError
from bioimg.results import schema
from bioimg.storage.checked_parquet import decode_table, encode_table
from bioimg.storage.filesystem import Storage, join_path
from bioimg.storage.folder_lock import INTERNAL_FOLDER

TABLE_SCHEMAS = {
    "trials": schema.TRIALS_SCHEMA,
    "epochs": schema.EPOCHS_SCHEMA,
    "predictions": schema.PREDICTIONS_SCHEMA,
}
EARLIER_COLUMNS: dict[str, str | pa.Scalar] = {
    "score_used": pa.scalar("accuracy"),
    "test_score": "test_accuracy",
    "val_score": "val_accuracy",
    "recipe_seconds": "train_seconds",
    "head_rate_factor": pa.scalar(1.0),
    "layer_decay": pa.scalar(1.0),
    "warmup": pa.scalar(0),
    "patience_metric": pa.scalar("val_loss"),
}
"""What rows of earlier versions get in columns that they lack: a value, or another column's."""
PARTS_FOLDER = f"{INTERNAL_FOLDER}/parts"
PREVIOUS_FOLDER = f"{INTERNAL_FOLDER}/previous"

log = logging.getLogger("bioimg")


class TableStore:
    """The tables of a folder, which messages call `display_name`."""

    def __init__(self, storage: Storage, display_name: str) -> None:
        self._storage = storage
        self._display_name = display_name

    def write(self, table: str, key: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write all rows that one trial has in one table so far. They replace those it had.

        The epochs of a running trial are written again with each epoch, so they aren't flushed.
        """
        content = encode_table(pa.Table.from_pylist(list(rows), schema=TABLE_SCHEMAS[table]))
        self._storage.write(_part_name(key, table), content, flush=table != "epochs")

    def trial_rows(self, table: str, key: str) -> list[dict[str, Any]]:
        """Return the rows of one trial in one table."""
        rows = self._read_part(_part_name(key, table))
        if rows is None:
            rows = _merge_parts(table, self.merged_table(table), {})
            rows = rows.filter(pc.field("key") == key)
        return rows.to_pylist()

    def replace_predictions(self, key: str, subset: str, rows: pa.Table) -> None:
        """Write the predictions of a completed trial for one subset; those of others stay."""
        merged = _merge_parts("predictions", self.merged_table("predictions"), {})
        others = merged.filter((pc.field("key") == key) & (pc.field("subset") != subset))
        content = encode_table(pa.concat_tables([others, rows.cast(others.schema)]))
        self._storage.write(_part_name(key, "predictions"), content)
        # only with its row does a merge know that the trial has ended, and delete its parts
        self.write("trials", key, self.trial_rows("trials", key))

    def merge(self, order: Iterable[str] = ()) -> None:
        """Bring the tables up to date with the parts.

        Rows of the trials named in `order` come first and in that order. A damaged part counts as
        missing, and its rows are computed again.
        """
        order = list(order)
        parts = self._read_parts()
        trials_before = self.merged_table("trials")
        # trials last: until its row is in the table, an ended trial counts as missing, so that an
        # interrupted merge is repaired by the next one
        for table in ("predictions", "epochs", "trials"):
            self._merge_table(table, parts[table], order)
        # A part is deleted only by a later merge that finds exactly its row in the table: while the
        # previous table lacks the row, a damaged table is made again from both.
        for key, row in parts["trials"].items():
            if trials_before is not None and trials_before.filter(pc.field("key") == key).equals(
                row
            ):
                self._delete_parts(key)

    def merge_and_delete_parts(self, order: Iterable[str]) -> None:
        """Merge, and leave no part of a trial that has ended. Nobody may write meanwhile.

        Otherwise a later merge could delete a part that the trial has written since, on being
        trained further.
        """
        order = list(order)
        self.merge(order)
        self.merge(order)  # which deletes the parts

    def all_rows(self, table: str) -> list[dict[str, Any]]:
        """Return all rows of one table. Rows of parts replace merged ones."""
        return self._current_table(table).to_pylist()

    def trial_statuses(self) -> dict[str, schema.TrialStatus]:
        """Return the status of every trial that has ended, by key."""
        rows = self._current_table("trials").select(["key", "status"]).to_pylist()
        return {row["key"]: row["status"] for row in rows}

    def last_epochs(self) -> dict[str, dict[str, Any]]:
        """Return the last epoch of every trial that has one, running ones included, by key."""
        return {row["key"]: row for row in self.all_rows("epochs")}

    def lowest_losses(self) -> dict[str, float]:
        """Return the lowest validation loss of every trial that has an epoch, by key."""
        epochs = self._current_table("epochs").select(["key", "val_loss"])
        lowest = epochs.group_by("key").aggregate([("val_loss", "min")]).to_pylist()
        return {row["key"]: row["val_loss_min"] for row in lowest}

    def epoch_counts(self) -> dict[str, int]:
        """Return how many epochs of every trial are on record, by key."""
        rows = self._current_table("epochs").select(["key", "epoch"]).to_pylist()
        return {row["key"]: row["epoch"] for row in rows}

    def merged_table(self, table: str) -> pa.Table | None:
        """Return a table as of the last merge; None if there was none.

        If it is damaged, return that of the merge before, with a warning.

        Raises:
            UserError: Both are damaged.
        """
        try:
            return _decode_rows(self._storage.read(f"{table}.parquet"), table)
        except FileNotFoundError:
            return None
        except CorruptFileError as error:
            return self._read_previous(table, error)

    def _merge_table(self, table: str, parts: Mapping[str, pa.Table], order: list[str]) -> None:
        merged = self.merged_table(table)
        if merged is not None and not parts and not order:
            return
        rows = _sort_rows(_merge_parts(table, merged, parts), order)
        content = encode_table(rows)
        if merged is not None:
            if not parts and content == self._storage.read(f"{table}.parquet"):
                return
            self._storage.write(_previous_name(table), encode_table(merged))
        self._storage.write(f"{table}.parquet", content)

    def _delete_parts(self, key: str) -> None:
        for table in TABLE_SCHEMAS:
            self._storage.delete(_part_name(key, table))

    def _current_table(self, table: str) -> pa.Table:
        # parts before the table, so that rows that are merged in between are in both
        parts = self._read_parts()[table]
        return _merge_parts(table, self.merged_table(table), parts)

    def _read_parts(self) -> dict[str, dict[str, pa.Table]]:
        """Read all parts, by table and key.

        A trial with a damaged part is left out of all tables, so that it runs again.
        """
        parts: dict[str, dict[str, pa.Table]] = {table: {} for table in TABLE_SCHEMAS}
        damaged = set()
        for name in self._storage.names(PARTS_FOLDER):
            key, table, _ = name.rpartition("/")[2].split(".")
            rows = self._read_part(name)
            if rows is None:
                damaged.add(key)
            else:
                parts[table][key] = rows
        for key in damaged:
            for table in TABLE_SCHEMAS:
                parts[table].pop(key, None)
        return parts

    def _read_part(self, name: str) -> pa.Table | None:
        """Read a part. Return None if it doesn't exist or, with a warning, if it is damaged."""
        try:
            return _decode_rows(self._storage.read(name), name.split(".")[-2])
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
        path = join_path(self._display_name, f"{table}.parquet")
        try:
            rows = _decode_rows(self._storage.read(_previous_name(table)), table)
        except (FileNotFoundError, CorruptFileError):
            raise UserError(
                f"{path} is damaged ({damage}). Replace it with a copy, or delete trials.parquet, "
                "epochs.parquet and predictions.parquet there and run the same command again to "
                "compute their rows again."
            ) from damage
        log.warning(
            "%s is damaged (%s): its previous version is used. Running the experiment's command "
            "again repairs it.",
            path,
            damage,
        )
        return rows


def _decode_rows(content: bytes, table: str) -> pa.Table:
    """Return the rows in a file, those of earlier versions with columns that they lack.

    Raises:
        CorruptFileError: the file is damaged.
    """
    rows = decode_table(content, TABLE_SCHEMAS[table])
    for name, earlier in EARLIER_COLUMNS.items():
        if name in rows.column_names:
            value = rows[earlier] if isinstance(earlier, str) else earlier
            position = rows.column_names.index(name)
            rows = rows.set_column(position, rows.field(name), pc.fill_null(rows[name], value))
    return rows


def _part_name(key: str, table: str) -> str:
    return f"{PARTS_FOLDER}/{key}.{table}.parquet"


def _previous_name(table: str) -> str:
    return f"{PREVIOUS_FOLDER}/{table}.parquet"


def _merge_parts(table: str, merged: pa.Table | None, parts: Mapping[str, pa.Table]) -> pa.Table:
    """Return the rows of a table and of its parts, which replace those of the same trials."""
    tables = [TABLE_SCHEMAS[table].empty_table()]
    if merged is not None:
        replaced = pa.array(list(parts), pa.string())
        tables.append(merged.filter(~pc.field("key").isin(replaced)))
    return pa.concat_tables([*tables, *parts.values()])


def _sort_rows(rows: pa.Table, order: list[str]) -> pa.Table:
    """Put rows of the trials named in `order` first and in that order, the others after them."""
    rank = {key: position for position, key in enumerate(order)}
    ranks = [rank.get(key, len(rank)) for key in rows["key"].to_pylist()]
    positions = sorted(range(len(ranks)), key=ranks.__getitem__)
    return rows.take(pa.array(positions, pa.int64()))
