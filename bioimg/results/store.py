"""The results folder and what is in it. Writing is atomic; reading needs no Ray and no torch.

experiment.json        what was asked, on which data, with which versions; `complete` is set last
trials.parquet         the comparison table, one row per ended trial
epochs.parquet         one row per trial and epoch
predictions.parquet    one row per completed trial, split (val, test) and image
images.parquet         which image is in which part, for each way of splitting that any run used
*.previous.parquet     the three tables before the last merge, for when one is damaged
parts/KEY.*.parquet    the same rows of trials that ended since the last merge, or still run
checkpoints/KEY/       best.safetensors; resume.pt while the trial can resume; error.txt of one that failed
checkpoints/backbones/ frozen ones, which the models of many trials share
running.json           who writes here
engine/, tensorboard/  Ray's messages; curves
report/                tables, figures and the page
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

from bioimg.config import UserError
from bioimg.results import schema
from bioimg.results.folder import beside, is_remote, nearest, open_folder, unwritable
from bioimg.results.images import differences, joined
from bioimg.results.lock import HOLDER, Lock, require
from bioimg.results.parquet import Damaged, decode, encode
from bioimg.results.tables import TABLES, Tables

MANIFEST, IMAGES = "experiment.json", "images.parquet"
CHECKPOINTS = "checkpoints"

log = logging.getLogger("bioimg")


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
        self.tables = Tables(self.files, self.shown)
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
            path = Path(self.engine) / "ray.log"
            with unwritable(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                file = path.open("a")
            with file:
                yield file

    def checkpoint(self, key: str) -> str:
        """The name of the folder of one trial's tensors."""
        return f"{CHECKPOINTS}/{key}"

    def check(self, name: str) -> None:
        """Check, before anything is read, that the folder can take the results of an experiment.

        Raises:
            UserError: it holds another experiment or something else, or can't be written.
        """
        if not is_remote(self.place):
            self._try()
        if self.files.size(MANIFEST) is not None:
            self._same("name", name)
        elif set(self.files.names()) - {HOLDER}:
            raise UserError(
                f"the value of `out` is {self.shown}, but must be a new or empty folder or one with results, and this one "
                "holds something else. Name another with --out."
            )

    def begin(self, description: Mapping[str, Any], images: Iterable[Mapping[str, Any]] = ()) -> None:
        """Claim the folder for an experiment, or to resume one, until `release`. `images` are rows of images.parquet.

        Raises:
            UserError: another run writes there; or the folder holds another experiment, or the same one on other images or
                with images in other parts, which are named.
        """
        self.check(description["name"])
        placed = pa.Table.from_pylist(list(images), schema=schema.IMAGES)
        if self.files.size(MANIFEST) is not None:
            self._same_images(placed, description["data"])
        self._lock = Lock(self.files)
        self.describe({**description, "complete": False})
        if len(placed):
            self.files.write(IMAGES, encode(joined(self.images(), placed)))

    @property
    def run(self) -> str | None:
        """The run that holds the folder, for workers."""
        return self._lock.run if self._lock else self._run

    def require_held(self) -> None:
        """Check that the run that this worker writes for still holds the folder.

        Raises:
            Unwritable: it doesn't.
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

    @functools.cached_property
    def earlier_checkpoints(self) -> frozenset[str]:
        """Names of the files that earlier runs left there: those that were there when this was first read."""
        return frozenset(self.files.names(CHECKPOINTS))

    @functools.cached_property
    def earlier_epochs(self) -> dict[str, int]:
        """How many epochs of each trial were on record when this was first read, by key."""
        return self.tables.lengths()

    @functools.cached_property
    def keep(self) -> str:
        """Which tensors stay once a trial has ended, as experiment.json says: those of the `best` epoch, `all` or `none`."""
        return self.earlier().get("keep", "best")

    def tidy(self) -> None:
        """Delete what Ray left of a complete run, except its log. Folders stay, since Ray may not have ended yet."""
        for name in self.files.names("engine"):
            if name != "engine/ray.log":
                self.files.delete(name)

    def earlier(self) -> dict[str, Any]:
        """The content of experiment.json as earlier runs left it; nothing if there is none."""
        return self.experiment() if self.files.size(MANIFEST) is not None else {}

    def experiment(self) -> dict[str, Any]:
        """The content of experiment.json.

        Raises:
            UserError: there is none, it is damaged, or another version of bioimg wrote it.
        """
        try:
            described = json.loads(self.files.read(MANIFEST))
        except FileNotFoundError:
            raise self.lacking(MANIFEST) from None
        except ValueError as error:  # of json
            raise UserError(
                f"{self.named(MANIFEST)} can't be read: {error}. It records which images the results belong to. Copy the "
                "folder again, or run the experiment again into another folder (--out)."
            ) from error
        if (found := described.get("format")) != schema.FORMAT:
            raise UserError(
                f"the `format` of {self.named(MANIFEST)} is {found!r}, but must be {schema.FORMAT}: another version of bioimg "
                f"wrote it. Use that version ({described.get('versions', {}).get('bioimg', 'unknown')})."
            )
        return described

    def lacking(self, *names: str) -> UserError:
        """The error for a folder to be read that lacks these files."""
        if not is_remote(self.place) and not Path(self.place).is_dir():
            said = f"the value of `results` is {self.shown!r}, but there is no such folder"
            return UserError(f"{said}. Name one that grid.py wrote.")
        return UserError(f"{self.shown} isn't a folder of results: it lacks {', '.join(names)}. Name one that grid.py wrote.")

    def digests(self) -> dict[str, str]:
        """The digest of every image by its path; empty without images.parquet."""
        images = self.images()
        return dict(zip(images["image"].to_pylist(), images["digest"].to_pylist(), strict=True))

    def _try(self) -> None:
        """Check that a file can be created in the folder or, if there is none yet, where it will be. None is left."""
        there = nearest(Path(self.place))
        try:
            tempfile.TemporaryFile(dir=there).close()
        except OSError as error:
            raise UserError(
                f"the value of `out` is {self.shown}, but must be a writable folder, and no file can be created in {there}: "
                f"{error.strerror}. Fix that, or name another with --out."
            ) from error

    def _same(self, what: str, value: str) -> None:
        held = self.experiment()
        known = held["name"] if what == "name" else held["data"]["fingerprint"]
        if known != value:
            raise UserError(
                f"the value of `out` is {self.shown}, but that folder holds another experiment: its {what} is {known!r}, "
                f"this one's is {value!r}. Name another folder with --out."
            )

    def _same_images(self, placed: pa.Table, data: Mapping[str, Any]) -> None:
        if told := differences(self.images(), placed, self.experiment()["data"]["classes"], data["classes"]):
            raise UserError(
                f"the value of `out` is {self.shown}, but the images have changed since the runs whose results it holds: "
                f"{', '.join(told)}. Restore files, labels, groups and names, or name another folder with --out."
            )
        self._same("data fingerprint", data["fingerprint"])

    def images(self) -> pa.Table:
        """Which image went where in earlier runs; empty if that is unknown."""
        try:
            return decode(self.files.read(IMAGES), schema.IMAGES)
        except FileNotFoundError:
            return schema.IMAGES.empty_table()
        except Damaged as error:
            told = "%s is damaged (%s): whether images have changed parts since is unknown. It is written again."
            log.warning(told, self.named(IMAGES), error)
            return schema.IMAGES.empty_table()

    def named(self, name: str) -> str:
        """A file of the folder, by its name for messages."""
        return beside(self.shown, name)


def read(place: str | Path) -> Results:
    """Read a results folder, also of a running experiment (as of its last merge).

    Raises:
        UserError: it isn't one, another version of bioimg wrote it, or a table is damaged.
    """
    store = Store(place)
    described = store.earlier()  # first: another version's tables may not be readable
    tables = {table: store.tables.merged(table) for table in TABLES}
    missing = [f"{table}.parquet" for table, rows in tables.items() if rows is None]
    if not described:
        missing.insert(0, MANIFEST)
    if missing:
        raise store.lacking(*missing)
    return Results(described, **{table: rows.to_pandas() for table, rows in tables.items() if rows is not None})
