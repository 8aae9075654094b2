"""The results folder and what is in it. Writing is atomic; reading needs no Ray and no torch.

experiment.json        what was asked, on which data, with which versions; `complete` is set last
trials.parquet         the comparison table, one row per ended trial
epochs.parquet         one row per trial and epoch
predictions.parquet    one row per completed trial, subset (val, test) and image
images.parquet         which image is in which subset, for each way of splitting that any run used
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

from bioimg.errors import CorruptFileError, UserError
from bioimg.results import schema
from bioimg.results.image_assignments import image_differences, merge_assignments
from bioimg.results.table_store import TABLE_SCHEMAS, TableStore
from bioimg.storage.checked_parquet import decode_table, encode_table
from bioimg.storage.filesystem import (
    as_storage_error,
    is_remote,
    join_path,
    nearest_existing_path,
    open_storage,
)
from bioimg.storage.folder_lock import HOLDER_FILE, FolderLock, require_lock

MANIFEST_FILE, IMAGES_FILE = "experiment.json", "images.parquet"
CHECKPOINTS_FOLDER = "checkpoints"

log = logging.getLogger("bioimg")


@dataclass(frozen=True, eq=False)
class Results:
    """What a results folder holds: experiment.json and the three tables, in the order of the grid."""

    manifest: dict[str, Any]
    trials: pd.DataFrame
    epochs: pd.DataFrame
    predictions: pd.DataFrame


class ResultStore:
    """A results folder that is being written: a path, or an address such as s3://bucket/path.

    A worker of another process names the run that it writes for.
    """

    def __init__(self, place: str | Path, run: str | None = None) -> None:
        self.display_name = str(place) if is_remote(place) else str(Path(place).expanduser())
        self.location = (
            self.display_name if is_remote(place) else str(Path(self.display_name).absolute())
        )
        self.storage = open_storage(self.display_name)
        self.tables = TableStore(self.storage, self.display_name)
        self.engine_folder = join_path(self.location, "engine")
        self._lock: FolderLock | None = None
        self._worker_session_id = run

    @contextlib.contextmanager
    def open_ray_log(self) -> Iterator[IO[str]]:
        """Where Ray's own messages go: engine/ray.log; for an object store, which can't append, a file of this machine."""
        if is_remote(self.location):
            with tempfile.NamedTemporaryFile(
                "w", prefix="bioimg-ray-", suffix=".log", delete=False
            ) as file:
                yield file
        else:
            path = Path(self.engine_folder) / "ray.log"
            with as_storage_error(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                file = path.open("a")
            with file:
                yield file

    def checkpoint_folder(self, key: str) -> str:
        """The name of the folder of one trial's tensors."""
        return f"{CHECKPOINTS_FOLDER}/{key}"

    def check_usable(self, name: str) -> None:
        """Check, before anything is read, that the folder can take the results of an experiment.

        Raises:
            UserError: it holds another experiment or something else, or can't be written.
        """
        if not is_remote(self.location):
            self._check_writable()
        if self.storage.size(MANIFEST_FILE) is not None:
            self._check_same_experiment("name", name)
        elif set(self.storage.names()) - {HOLDER_FILE}:
            raise UserError(
                f"the value of `out` is {self.display_name}, but must be a new or empty folder or one with results, and this one "
                "holds something else. Name another with --out."
            )

    def open_for_writing(
        self, description: Mapping[str, Any], images: Iterable[Mapping[str, Any]] = ()
    ) -> None:
        """Claim the folder for an experiment, or to resume one, until `release`. `images` are rows of images.parquet.

        Raises:
            UserError: another run writes there; or the folder holds another experiment, or the same one on other images or
                with images in other parts, which are named.
        """
        self.check_usable(description["name"])
        placed = pa.Table.from_pylist(list(images), schema=schema.IMAGES_SCHEMA)
        if self.storage.size(MANIFEST_FILE) is not None:
            self._check_same_images(placed, description["data"])
        self._lock = FolderLock(self.storage)
        self.write_manifest({**description, "complete": False})
        if len(placed):
            self.storage.write(
                IMAGES_FILE, encode_table(merge_assignments(self.read_assignments(), placed))
            )

    @property
    def session_id(self) -> str | None:
        """The run that holds the folder, for workers."""
        return self._lock.session_id if self._lock else self._worker_session_id

    def require_lock(self) -> None:
        """Check that the run that this worker writes for still holds the folder.

        Raises:
            Unwritable: it doesn't.
        """
        if self._worker_session_id:
            require_lock(self.storage, self._worker_session_id)

    def release(self) -> None:
        """Leave the folder to other runs."""
        if self._lock:
            self._lock.release()
            self._lock = None

    def write_manifest(self, description: Mapping[str, Any]) -> None:
        """Write experiment.json."""
        self.storage.write(MANIFEST_FILE, (json.dumps(description, indent=2) + "\n").encode())

    @functools.cached_property
    def earlier_checkpoints(self) -> frozenset[str]:
        """Names of the files that earlier runs left there: those that were there when this was first read."""
        return frozenset(self.storage.names(CHECKPOINTS_FOLDER))

    @functools.cached_property
    def earlier_epoch_counts(self) -> dict[str, int]:
        """How many epochs of each trial were on record when this was first read, by key."""
        return self.tables.epoch_counts()

    @functools.cached_property
    def checkpoints_to_keep(self) -> str:
        """Which tensors stay once a trial has ended, as experiment.json says: those of the `best` epoch, `all` or `none`."""
        return self.read_manifest_or_empty().get("keep", "best")

    def delete_ray_files(self) -> None:
        """Delete what Ray left of a complete run, except its log. Folders stay, since Ray may not have ended yet."""
        for name in self.storage.names("engine"):
            if name != "engine/ray.log":
                self.storage.delete(name)

    def read_manifest_or_empty(self) -> dict[str, Any]:
        """The content of experiment.json as earlier runs left it; nothing if there is none."""
        return self.read_manifest() if self.storage.size(MANIFEST_FILE) is not None else {}

    def read_manifest(self) -> dict[str, Any]:
        """The content of experiment.json.

        Raises:
            UserError: there is none, it is damaged, or another version of bioimg wrote it.
        """
        try:
            described = json.loads(self.storage.read(MANIFEST_FILE))
        except FileNotFoundError:
            raise self.missing_files_error(MANIFEST_FILE) from None
        except ValueError as error:  # of json
            raise UserError(
                f"{self.display_path(MANIFEST_FILE)} can't be read: {error}. It records which images the results belong to. Copy the "
                "folder again, or run the experiment again into another folder (--out)."
            ) from error
        if described.get("format") != schema.FORMAT_VERSION:
            raise self._other_format_error(described)
        return described

    def _other_format_error(self, manifest: Mapping[str, Any]) -> UserError:
        version = manifest.get("versions", {}).get("bioimg", "unknown")
        commit = manifest.get("commit") or "unknown"
        return UserError(
            f"the `format` of {self.display_path(MANIFEST_FILE)} is {manifest.get('format')!r}, but "
            f"must be {schema.FORMAT_VERSION}: another version of bioimg wrote these results, and "
            f"this one can't read them. Use that version ({version}, commit {commit}), or run the "
            "experiment again into a new folder (--out)."
        )

    def missing_files_error(self, *names: str) -> UserError:
        """The error for a folder to be read that lacks these files."""
        if not is_remote(self.location) and not Path(self.location).is_dir():
            said = f"the value of `results` is {self.display_name!r}, but there is no such folder"
            return UserError(f"{said}. Name one that grid.py wrote.")
        return UserError(
            f"{self.display_name} isn't a folder of results: it lacks {', '.join(names)}. Name one that grid.py wrote."
        )

    def image_digests(self) -> dict[str, str]:
        """The digest of every image by its path; empty without images.parquet."""
        images = self.read_assignments()
        return dict(zip(images["image"].to_pylist(), images["digest"].to_pylist(), strict=True))

    def _check_writable(self) -> None:
        """Check that a file can be created in the folder or, if there is none yet, where it will be. None is left."""
        there = nearest_existing_path(Path(self.location))
        try:
            tempfile.TemporaryFile(dir=there).close()
        except OSError as error:
            raise UserError(
                f"the value of `out` is {self.display_name}, but must be a writable folder, and no file can be created in {there}: "
                f"{error.strerror}. Fix that, or name another with --out."
            ) from error

    def _check_same_experiment(self, what: str, value: str) -> None:
        held = self.read_manifest()
        known = held["name"] if what == "name" else held["data"]["fingerprint"]
        if known != value:
            raise UserError(
                f"the value of `out` is {self.display_name}, but that folder holds another experiment: its {what} is {known!r}, "
                f"this one's is {value!r}. Name another folder with --out."
            )

    def _check_same_images(self, placed: pa.Table, data: Mapping[str, Any]) -> None:
        if told := image_differences(
            self.read_assignments(),
            placed,
            self.read_manifest()["data"]["classes"],
            data["classes"],
        ):
            raise UserError(
                f"the value of `out` is {self.display_name}, but the images have changed since the runs whose results it holds: "
                f"{', '.join(told)}. Restore files, labels, groups and names, or name another folder with --out."
            )
        self._check_same_experiment("data fingerprint", data["fingerprint"])

    def read_assignments(self) -> pa.Table:
        """Which image went where in earlier runs; empty if that is unknown."""
        try:
            return decode_table(self.storage.read(IMAGES_FILE), schema.IMAGES_SCHEMA)
        except FileNotFoundError:
            return schema.IMAGES_SCHEMA.empty_table()
        except CorruptFileError as error:
            told = "%s is damaged (%s): whether images have changed parts since is unknown. It is written again."
            log.warning(told, self.display_path(IMAGES_FILE), error)
            return schema.IMAGES_SCHEMA.empty_table()

    def display_path(self, name: str) -> str:
        """A file of the folder, by its name for messages."""
        return join_path(self.display_name, name)


def read_results(place: str | Path) -> Results:
    """Read a results folder, also of a running experiment (as of its last merge).

    Raises:
        UserError: it isn't one, another version of bioimg wrote it, or a table is damaged.
    """
    store = ResultStore(place)
    described = (
        store.read_manifest_or_empty()
    )  # first: another version's tables may not be readable
    tables = {table: store.tables.merged_table(table) for table in TABLE_SCHEMAS}
    missing = [f"{table}.parquet" for table, rows in tables.items() if rows is None]
    if not described:
        missing.insert(0, MANIFEST_FILE)
    if missing:
        raise store.missing_files_error(*missing)
    return Results(
        described, **{table: rows.to_pandas() for table, rows in tables.items() if rows is not None}
    )
