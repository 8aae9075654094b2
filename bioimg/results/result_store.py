"""The results folder and its files. Writing is atomic. Reading needs neither Ray nor torch.

experiment.json        what was asked, on which data, with which versions; `complete` is set last
trials.parquet         the comparison table, one row per ended trial
epochs.parquet         one row per trial and epoch
predictions.parquet    one row per completed trial, subset (val, test, external:NAME) and image
images.parquet         the subset of each image, for each split that any run used
looks.json             when test results were shown, and how many there were (see looks.py)
checkpoints/KEY/       best.safetensors; resume*.pt while it can resume; error.txt if it failed
checkpoints/backbones/ frozen backbones, which the models of many trials share
tensorboard/           curves
report/                tables, figures and the page
internal/              what nobody needs to look at:
  parts/               KEY.TABLE.parquet, rows of trials that run or ended since the last merge
  previous/            the tables before the last merge, for when one is damaged
  ray/                 Ray's own files, and its messages in ray.log
  running.json         who writes here
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
from bioimg.results.image_assignments import find_image_differences, merge_assignments
from bioimg.results.table_store import TABLE_SCHEMAS, TableStore
from bioimg.storage.checked_parquet import decode_table, encode_table
from bioimg.storage.filesystem import (
    as_storage_error,
    is_remote,
    join_path,
    nearest_existing_path,
    open_storage,
)
from bioimg.storage.folder_lock import HOLDER_FILE, INTERNAL_FOLDER, FolderLock, require_lock

MANIFEST_FILE = "experiment.json"
IMAGES_FILE = "images.parquet"
LOOKS_FILE = "looks.json"
CHECKPOINTS_FOLDER = "checkpoints"
RAY_FOLDER = f"{INTERNAL_FOLDER}/ray"
RAY_LOG = f"{RAY_FOLDER}/ray.log"

log = logging.getLogger("bioimg")


@dataclass(frozen=True, eq=False)
class Results:
    """The content of a results folder: experiment.json and the tables, in grid order."""

    manifest: dict[str, Any]
    trials: pd.DataFrame
    epochs: pd.DataFrame
    predictions: pd.DataFrame
    images: pd.DataFrame
    """The rows of images.parquet; none if they weren't recorded."""

    @property
    def tuned_fields(self) -> tuple[str, ...]:
        """The fields whose values are chosen within each recipe; none in earlier versions."""
        return tuple(self.manifest.get("tune", ()))

    @property
    def aggregate(self) -> str:
        """How the images of a group become one prediction; the mean in earlier versions."""
        return self.manifest.get("aggregate", "mean")


class ResultStore:
    """A results folder that is being written: a path, or an address such as s3://bucket/path.

    A worker of another process gives the `session_id` of the session that it writes for.
    """

    def __init__(self, location: str | Path, session_id: str | None = None) -> None:
        if is_remote(location):
            self.display_name = self.location = str(location)
        else:
            path = Path(location).expanduser()
            self.display_name = str(path)
            self.location = str(path.absolute())
        self.storage = open_storage(self.display_name)
        self.tables = TableStore(self.storage, self.display_name)
        self.ray_folder = join_path(self.location, RAY_FOLDER)
        self._lock: FolderLock | None = None
        self._worker_session_id = session_id

    # The session

    def check_usable(self, experiment_name: str) -> None:
        """Check, before anything is read, that the folder can take the results of an experiment.

        Raises:
            UserError: The folder holds another experiment or something else, or can't be written.
        """
        if not is_remote(self.location):
            self._check_writable()
        if self.storage.size(MANIFEST_FILE) is not None:
            self._check_same_experiment("name", self.read_manifest()["name"], experiment_name)
        elif set(self.storage.names()) - {HOLDER_FILE}:
            raise UserError(
                f"the value of `out` is {self.display_name}, but must be a new or empty folder or "
                "one with results, and this one holds something else. Name another with --out."
            )

    def open_for_writing(
        self, manifest: Mapping[str, Any], assignments: Iterable[Mapping[str, Any]] = ()
    ) -> None:
        """Hold the folder for an experiment, or to resume one, until `release`.

        Args:
            manifest: The content of experiment.json.
            assignments: Rows of images.parquet.

        Raises:
            UserError: Another session holds the folder, or its results are of another experiment,
                or of the same one on other images, with images in other subsets or by another
                score.
        """
        self.check_usable(manifest["name"])
        rows = pa.Table.from_pylist(list(assignments), schema=schema.IMAGES_SCHEMA)
        if self.storage.size(MANIFEST_FILE) is not None:
            self._check_same_images(rows, manifest["data"])
            self._check_same_score(manifest)
        self.hold()
        self.write_manifest({**manifest, "complete": False})
        if len(rows):
            merged = merge_assignments(self.read_assignments(), rows)
            self.storage.write(IMAGES_FILE, encode_table(merged))

    def hold(self) -> None:
        """Keep other sessions out of the folder until `release`.

        Raises:
            UserError: Another session holds it.
        """
        self._lock = FolderLock(self.storage)

    @property
    def session_id(self) -> str | None:
        """The session that holds the folder, for workers."""
        return self._lock.session_id if self._lock else self._worker_session_id

    def require_lock(self) -> None:
        """Check that the session that this worker writes for still holds the folder.

        Raises:
            StorageError: It doesn't.
        """
        if self._worker_session_id:
            require_lock(self.storage, self._worker_session_id)

    def release(self) -> None:
        """Leave the folder to other sessions."""
        if self._lock:
            self._lock.release()
            self._lock = None

    # experiment.json and images.parquet

    def write_manifest(self, manifest: Mapping[str, Any]) -> None:
        """Write experiment.json."""
        content = json.dumps(manifest, indent=2) + "\n"
        self.storage.write(MANIFEST_FILE, content.encode())

    def read_manifest(self) -> dict[str, Any]:
        """Read experiment.json.

        Raises:
            UserError: There is none, it is damaged, or another version of bioimg wrote it.
        """
        try:
            manifest = json.loads(self.storage.read(MANIFEST_FILE))
        except FileNotFoundError:
            raise self.missing_files_error(MANIFEST_FILE) from None
        except ValueError as error:  # of json
            raise UserError(
                f"{self.display_path(MANIFEST_FILE)} can't be read: {error}. It records which "
                "images the results belong to. Copy the folder again, or run the experiment again "
                "into another folder (--out)."
            ) from error
        if manifest.get("format") != schema.FORMAT_VERSION:
            raise self._other_format_error(manifest)
        return manifest

    def read_manifest_or_empty(self) -> dict[str, Any]:
        """Read experiment.json as earlier runs left it; return nothing if there is none."""
        if self.storage.size(MANIFEST_FILE) is None:
            return {}
        return self.read_manifest()

    def read_assignments(self) -> pa.Table:
        """Read images.parquet. It is empty if the subsets of earlier runs are unknown."""
        try:
            return decode_table(self.storage.read(IMAGES_FILE), schema.IMAGES_SCHEMA)
        except FileNotFoundError:
            pass
        except CorruptFileError as error:
            log.warning(
                "%s is damaged (%s): whether images have changed subsets since is unknown. It is "
                "written again.",
                self.display_path(IMAGES_FILE),
                error,
            )
        return schema.IMAGES_SCHEMA.empty_table()

    def image_digests(self) -> dict[str, str]:
        """Return the digest of every image by its path; nothing without images.parquet."""
        images = self.read_assignments()
        return dict(zip(images["image"].to_pylist(), images["digest"].to_pylist(), strict=True))

    # What earlier runs left

    @functools.cached_property
    def earlier_checkpoints(self) -> frozenset[str]:
        """Names of the checkpoint files that existed when this was first read."""
        return frozenset(self.storage.names(CHECKPOINTS_FOLDER))

    @functools.cached_property
    def earlier_epoch_counts(self) -> dict[str, int]:
        """Number of epochs of each trial that were on record when this was first read, by key."""
        return self.tables.epoch_counts()

    @functools.cached_property
    def checkpoints_to_keep(self) -> str:
        """The tensors that stay once a trial has ended: of the `best` epoch, `all` or `none`."""
        return self.read_manifest_or_empty().get("keep", "best")

    @functools.cached_property
    def score_used(self) -> str:
        """The score of the experiment: `accuracy` or `balanced_accuracy`."""
        return recorded_score(self.read_manifest_or_empty())

    # Names of files

    def checkpoint_folder(self, key: str) -> str:
        """Return the name of the folder of one trial's tensors."""
        return f"{CHECKPOINTS_FOLDER}/{key}"

    def display_path(self, name: str) -> str:
        """Return the name of a file for messages."""
        return join_path(self.display_name, name)

    # Files of Ray

    @contextlib.contextmanager
    def open_ray_log(self) -> Iterator[IO[str]]:
        """Open the file for Ray's own messages.

        An object store can't append, so its log is a temporary file of this machine.
        """
        if is_remote(self.location):
            with tempfile.NamedTemporaryFile(
                "w", prefix="bioimg-ray-", suffix=".log", delete=False
            ) as file:
                yield file
            return
        path = Path(self.location) / RAY_LOG
        with as_storage_error(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("a")
        with file:
            yield file

    def delete_ray_files(self) -> None:
        """Delete what Ray left of a complete run, except its log.

        Folders stay, since Ray may not have ended yet.
        """
        for name in self.storage.names(RAY_FOLDER):
            if name != RAY_LOG:
                self.storage.delete(name)

    # Refusals

    def _check_writable(self) -> None:
        """Check that a file can be created in the folder, or where it will be. None is left."""
        folder = nearest_existing_path(Path(self.location))
        try:
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            raise UserError(
                f"the value of `out` is {self.display_name}, but must be a writable folder, and no "
                f"file can be created in {folder}: {error.strerror}. Fix that, or name another "
                "with --out."
            ) from error

    def _check_same_experiment(self, field: str, recorded: str, value: str) -> None:
        if recorded != value:
            raise UserError(
                f"the value of `out` is {self.display_name}, but that folder holds another "
                f"experiment: its {field} is {recorded!r}, this one's is {value!r}. Name another "
                "folder with --out."
            )

    def _check_same_images(self, assignments: pa.Table, data: Mapping[str, Any]) -> None:
        recorded = self.read_manifest()["data"]
        differences = find_image_differences(
            self.read_assignments(), assignments, recorded["classes"], data["classes"]
        )
        if differences:
            raise UserError(
                f"the value of `out` is {self.display_name}, but the images have changed since the "
                f"runs whose results it holds: {', '.join(differences)}. Restore files, labels, "
                "groups and names, or name another folder with --out."
            )
        self._check_same_experiment(
            "data fingerprint", recorded["fingerprint"], data["fingerprint"]
        )

    def _check_same_score(self, manifest: Mapping[str, Any]) -> None:
        recorded = recorded_score(self.read_manifest())
        score = recorded_score(manifest)
        if score != recorded:
            raise UserError(
                f"the value of `score` is {manifest['base']['score']!r}, which means {score} for "
                f"these images, but must be {recorded!r}, by which the results in "
                f"{self.display_name} were selected. Use --score {recorded}, or name another "
                "folder with --out."
            )

    def missing_files_error(self, *names: str) -> UserError:
        """Return the error for a folder to be read that lacks these files."""
        if not is_remote(self.location) and not Path(self.location).is_dir():
            return UserError(
                f"the value of `results` is {self.display_name!r}, but there is no such folder. "
                "Name one that grid.py wrote."
            )
        return UserError(
            f"{self.display_name} isn't a folder of results: it lacks {', '.join(names)}. "
            "Name one that grid.py wrote."
        )

    def _other_format_error(self, manifest: Mapping[str, Any]) -> UserError:
        version = manifest.get("versions", {}).get("bioimg", "unknown")
        commit = manifest.get("commit") or "unknown"
        found = manifest.get("format")
        return UserError(
            f"the `format` of {self.display_path(MANIFEST_FILE)} is {found!r}, but must be "
            f"{schema.FORMAT_VERSION}: another version of bioimg wrote these results, and "
            f"this one can't read them. Use that version ({version}, commit {commit}), or run the "
            "experiment again into a new folder (--out)."
        )


def recorded_score(manifest: Mapping[str, Any]) -> str:
    """Return the score in experiment.json, which earlier versions, with accuracy alone, lack."""
    return manifest.get("score", "accuracy")


def read_results(location: str | Path) -> Results:
    """Read a results folder, also of a running experiment (as of its last merge).

    Raises:
        UserError: There are none, another version of bioimg wrote them, or a table is damaged.
    """
    store = ResultStore(location)
    # the manifest first: another version's tables may not be readable
    manifest = store.read_manifest_or_empty()
    tables = {name: store.tables.merged_table(name) for name in TABLE_SCHEMAS}
    missing = [f"{name}.parquet" for name, rows in tables.items() if rows is None]
    if not manifest:
        missing.insert(0, MANIFEST_FILE)
    if missing:
        raise store.missing_files_error(*missing)
    frames = {name: rows.to_pandas() for name, rows in tables.items() if rows is not None}
    return Results(manifest, **frames, images=store.read_assignments().to_pandas())
