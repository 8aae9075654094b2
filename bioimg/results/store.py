"""The results folder: the one place that knows its file names. Writing is atomic; reading needs no Ray and no torch.

experiment.json        what was asked, of which data, by which versions; `complete` is set last
trials.parquet         the comparison table, one row per ended trial
epochs.parquet         one row per trial and epoch
predictions.parquet    one row per completed trial, split (val, test) and image
images.parquet         which image is in which part, for each way of splitting that any run used
*.previous.parquet     the three tables before the last merge, for when one is damaged
parts/KEY.*.parquet    the same rows of trials that ended since the last merge, or still run
checkpoints/KEY/       best.safetensors and, while the trial can go on, resume.pt
checkpoints/backbones/ those that were frozen, which the models of many trials share
"""

import contextlib
import functools
import json
import logging
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bioimg.config import UserError
from bioimg.results import schema
from bioimg.results.folder import beside, is_remote, open_folder
from bioimg.results.images import differences, joined
from bioimg.results.lock import HOLDER, Lock, require

TABLES = {"trials": schema.TRIALS, "epochs": schema.EPOCHS, "predictions": schema.PREDICTIONS}
MANIFEST, IMAGES = "experiment.json", "images.parquet"
CHECKPOINTS = "checkpoints"

log = logging.getLogger("bioimg")


class Damaged(ValueError):
    """The bytes of a file aren't those that were written."""


@dataclass(frozen=True)
class Results:
    """What a results folder holds: experiment.json and the three tables, in the order of the grid."""

    experiment: dict[str, Any]
    trials: pd.DataFrame
    epochs: pd.DataFrame
    predictions: pd.DataFrame


class Store:
    """A results folder that is being written: a path, or an address such as s3://bucket/path.

    A worker of another process names the run that it writes for.
    """

    def __init__(self, place: str | Path, run: str | None = None) -> None:
        self.shown = str(place) if is_remote(place) else str(Path(place).expanduser())
        self.place = self.shown if is_remote(place) else str(Path(self.shown).absolute())
        self.files = open_folder(self.shown)
        self.engine = beside(self.place, "engine")
        self._lock: Lock | None = None
        self._run = run

    @contextlib.contextmanager
    def log(self) -> Iterator[IO[str]]:
        """Where Ray's own messages go: engine/ray.log; for an object store, which can't append, a file of this machine."""
        if is_remote(self.place):
            with tempfile.NamedTemporaryFile("w", prefix="bioimg-ray-", suffix=".log", delete=False) as file:
                yield file
        else:
            Path(self.engine).mkdir(parents=True, exist_ok=True)
            with (Path(self.engine) / "ray.log").open("a") as file:
                yield file

    def checkpoint(self, key: str) -> str:
        """The name of the folder of one trial's tensors."""
        return f"{CHECKPOINTS}/{key}"

    def check(self, name: str) -> None:
        """Find out, before anything is read, whether the folder can take the results of an experiment.

        Raises:
            UserError: it holds another experiment, or something that is none.
        """
        if self.files.size(MANIFEST) is not None:
            self._same("name", name)
        elif not is_remote(self.place) and Path(self.place).is_file():
            raise UserError(
                f"the value of `out` is {self.shown}, but must be a folder, and this is a file. Name another with --out."
            )
        elif set(self.files.names()) - {HOLDER}:
            raise UserError(
                f"the value of `out` is {self.shown}, but must be a new or empty folder, or one with results, and this one "
                "holds something else. Name another with --out."
            )

    def begin(self, description: Mapping[str, Any], images: Iterable[Mapping[str, Any]] = ()) -> None:
        """Claim the folder for an experiment, or go on with it, until `release`. `images` are rows of images.parquet.

        Raises:
            UserError: another run writes there; or the folder holds another experiment, or the same one on other images or
                with images in other parts: says which.
        """
        self.check(description["name"])
        placed = pa.Table.from_pylist(list(images), schema=schema.IMAGES)
        if self.files.size(MANIFEST) is not None:
            self._same_images(placed, description["data"])
        self._lock = Lock(self.files)
        self.describe({**description, "complete": False})
        if len(placed):
            self.files.write(IMAGES, _encoded(joined(self._images(), placed)))

    @property
    def run(self) -> str | None:
        """The run that holds the folder, as workers are told."""
        return self._lock.run if self._lock else self._run

    def require_held(self) -> None:
        """Find out whether the folder is still that of the run that this worker writes for.

        Raises:
            Unwritable: it isn't.
        """
        if self._run:
            require(self.files, self._run)

    def release(self) -> None:
        """Leave the folder to other runs."""
        if self._lock:
            self._lock.release()
            self._lock = None

    def describe(self, description: Mapping[str, Any]) -> None:
        """Write experiment.json."""
        self.files.write(MANIFEST, (json.dumps(description, indent=2) + "\n").encode())

    def write(self, table: str, key: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write all rows that one trial has in one table so far, in place of those it had.

        The epochs of a trial that runs are written again with each epoch, so nothing waits for the disk there.
        """
        content = _encoded(pa.Table.from_pylist(list(rows), schema=TABLES[table]))
        self.files.write(_part(key, table), content, flush=table != "epochs")

    def rows(self, table: str, key: str) -> list[dict[str, Any]]:
        """What one trial has in one table."""
        part = self._part(_part(key, table))
        if part is not None:
            return part.to_pylist()
        merged = self._table(table)
        return merged.filter(pc.field("key") == key).to_pylist() if merged is not None else []

    def merge(self, order: Iterable[str] = ()) -> None:
        """Bring the tables up to date with the parts, rows of the trials named in `order` first and in that order.

        The table of trials is written last and parts go only afterwards: whenever this is cut off, the next merge mends it.
        Each table is kept as TABLE.previous.parquet before, and parts go only with the merge after, which finds their very rows
        in the table, so that a table that is found damaged can be made from these.
        A damaged part counts as missing, and what it held is computed again.
        """
        rank = {key: position for position, key in enumerate(order)}
        parts, ended = self._parts(), self._table("trials")
        for table in ("predictions", "epochs", "trials"):
            merged = self._table(table)
            if merged is not None and not parts[table] and not rank:
                continue
            content = pa.concat_tables(list(parts[table].values()) or [TABLES[table].empty_table()])
            if merged is not None:
                fresh = pa.array(list(parts[table]), pa.string())
                content = pa.concat_tables([merged.filter(~pc.field("key").isin(fresh)), content])
            places = [rank.get(key, len(rank)) for key in content["key"].to_pylist()]
            in_order = sorted(range(len(places)), key=places.__getitem__)
            if merged is not None:
                if not parts[table] and in_order == list(range(len(places))):
                    continue
                self.files.write(f"{table}.previous.parquet", _encoded(merged))
            self.files.write(f"{table}.parquet", _encoded(content.take(pa.array(in_order, pa.int64()))))
        for key, part in parts["trials"].items():
            if ended is not None and ended.filter(pc.field("key") == key).equals(part):
                for table in TABLES:
                    self.files.delete(_part(key, table))

    def settle(self, order: Iterable[str]) -> None:
        """Leave no part of a trial that has ended, while nobody writes: a merge that deletes the part of its earlier end could
        meet that of the next one."""
        order = list(order)
        self.merge(order)
        self.merge(order)

    def every(self, table: str) -> list[dict[str, Any]]:
        """All rows of one table: those of parts in place of merged ones."""
        parts, merged = self._parts()[table], self._table(table)
        fresh = pa.array(list(parts), pa.string())
        rows = merged.filter(~pc.field("key").isin(fresh)).to_pylist() if merged is not None else []
        return rows + [row for part in parts.values() for row in part.to_pylist()]

    def statuses(self) -> dict[str, str]:
        """The status of every trial that has ended, by key."""
        return {row["key"]: row["status"] for row in self._newest("trials", ["key", "status"])}

    def latest(self) -> dict[str, dict[str, Any]]:
        """The last epoch of every trial that has one, also of those that run, by key."""
        return {row["key"]: row for row in self._newest("epochs", TABLES["epochs"].names)}

    @functools.cached_property
    def earlier_checkpoints(self) -> frozenset[str]:
        """Names of the files that earlier runs left there: those that lay there when this was first asked."""
        return frozenset(self.files.names(CHECKPOINTS))

    @functools.cached_property
    def earlier_epochs(self) -> dict[str, int]:
        """How many epochs of each trial were on record when this was first asked, by key."""
        return {row["key"]: row["epoch"] for row in self._newest("epochs", ["key", "epoch"])}

    @functools.cached_property
    def keep(self) -> str:
        """Which tensors stay once a trial has ended, as experiment.json says: those of the `best` epoch, `all` or `none`."""
        return self.earlier().get("keep", "best")

    def tidy(self) -> None:
        """Delete what Ray left of a run that is complete, its log aside. Folders stay, since Ray may not have ended yet."""
        for name in self.files.names("engine"):
            if name != "engine/ray.log":
                self.files.delete(name)

    def earlier(self) -> dict[str, Any]:
        """The content of experiment.json as earlier runs left it; nothing if there is none."""
        return self.experiment() if self.files.size(MANIFEST) is not None else {}

    def experiment(self) -> dict[str, Any]:
        """The content of experiment.json.

        Raises:
            UserError: there is none, or it is damaged.
        """
        try:
            return json.loads(self.files.read(MANIFEST))
        except FileNotFoundError:
            raise UserError(
                f"{self.shown} isn't a folder of results: it lacks {MANIFEST}. Name one that grid.py wrote."
            ) from None
        except ValueError as error:  # of json
            raise UserError(
                f"{self.named(MANIFEST)} can't be read: {error}. It says of which images the results are. Copy the folder "
                "again, or run the experiment again into another folder (--out)."
            ) from error

    def _newest(self, table: str, columns: list[str]) -> Iterator[dict[str, Any]]:
        """Rows of a table and then those of its parts, which replace them."""
        parts, merged = self._parts()[table], self._table(table)  # in this order: what is merged in between is in the table
        for rows in (*([merged] if merged is not None else []), *parts.values()):
            yield from rows.select(columns).to_pylist()

    def _same(self, what: str, value: str) -> None:
        held = self.experiment()
        known = held["name"] if what == "name" else held["data"]["fingerprint"]
        if known != value:
            raise UserError(
                f"the value of `out` is {self.shown}, but that folder holds another experiment: its {what} is {known!r}, "
                f"this one's is {value!r}. Name another folder with --out."
            )

    def _same_images(self, placed: pa.Table, data: Mapping[str, Any]) -> None:
        if told := differences(self._images(), placed, self.experiment()["data"]["classes"], data["classes"]):
            raise UserError(
                f"the value of `out` is {self.shown}, but the images aren't where and what they were in the runs whose results "
                f"it holds: {', '.join(told)}. Put files, labels, groups and names back as they were, or name another folder "
                "with --out."
            )
        self._same("data fingerprint", data["fingerprint"])

    def _images(self) -> pa.Table:
        """Which image went where in earlier runs; nothing where that isn't known."""
        try:
            return _decoded(self.files.read(IMAGES), schema.IMAGES)
        except FileNotFoundError:
            return schema.IMAGES.empty_table()
        except Damaged as error:
            told = "%s is damaged (%s): whether images have changed parts since can't be told. It is written anew."
            log.warning(told, self.named(IMAGES), error)
            return schema.IMAGES.empty_table()

    def _parts(self) -> dict[str, dict[str, pa.Table]]:
        """What the parts hold, by table and key. A trial with a damaged part is left out, so that it runs again."""
        held: dict[str, dict[str, pa.Table]] = {table: {} for table in TABLES}
        damaged = set()
        for name in self.files.names("parts"):
            key, table, _ = name.removeprefix("parts/").split(".")
            rows = self._part(name)
            if rows is None:
                damaged.add(key)
            else:
                held[table][key] = rows
        return {table: {key: rows for key, rows in parts.items() if key not in damaged} for table, parts in held.items()}

    def _part(self, name: str) -> pa.Table | None:
        """The rows of a part; None if there is none, or if it is damaged, which is told."""
        try:
            return _decoded(self.files.read(name), TABLES[name.split(".")[-2]])
        except FileNotFoundError:
            return None
        except Damaged as error:
            log.warning("%s is damaged (%s): it is left out, and what it held is computed again.", self.named(name), error)
            return None

    def _table(self, table: str) -> pa.Table | None:
        """A merged table; None if there is none. Where it is damaged, that of the merge before, which is told."""
        name = f"{table}.parquet"
        try:
            return _decoded(self.files.read(name), TABLES[table])
        except FileNotFoundError:
            return None
        except Damaged as error:
            return self._previous(table, error)

    def _previous(self, table: str, damage: Damaged) -> pa.Table:
        name = f"{table}.parquet"
        try:
            rows = _decoded(self.files.read(f"{table}.previous.parquet"), TABLES[table])
        except (FileNotFoundError, Damaged):
            raise UserError(
                f"{self.named(name)} is damaged ({damage}). Put a copy of it in its place, or delete trials.parquet, "
                "epochs.parquet and predictions.parquet there and run the same command again: it computes their rows anew."
            ) from damage
        log.warning(
            "%s is damaged (%s): the table before it is used. The command of the run mends it.", self.named(name), damage
        )
        return rows

    def named(self, name: str) -> str:
        """A file of the folder, as the user may name it."""
        return beside(self.shown, name)


def read(place: str | Path) -> Results:
    """Read a results folder, also of a running experiment (as of its last merge).

    Raises:
        UserError: it isn't one, or a table is damaged.
    """
    store = Store(place)
    names = [MANIFEST, *(f"{table}.parquet" for table in TABLES)]
    missing = [name for name in names if store.files.size(name) is None]
    if missing:
        raise UserError(f"{place} isn't a folder of results: it lacks {', '.join(missing)}. Name one that grid.py wrote.")
    tables = {name: store._table(name).to_pandas() for name in TABLES}  # type: ignore[union-attr]
    return Results(experiment=store.experiment(), **tables)


def _part(key: str, table: str) -> str:
    return f"parts/{key}.{table}.parquet"


def _encoded(table: pa.Table) -> pa.Buffer:
    """Parquet with a checksum for each page."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, write_page_checksum=True)
    return sink.getvalue()


def _decoded(content: bytes, known: pa.Schema) -> pa.Table:
    try:
        return pq.read_table(pa.BufferReader(content), schema=known, page_checksum_verification=True)
    except (ValueError, OSError, KeyError) as error:  # of pyarrow
        raise Damaged(str(error).splitlines()[0]) from error
