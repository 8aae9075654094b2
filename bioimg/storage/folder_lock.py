"""One run at a time in a results folder; a second one is told which run holds it.

On a disk the operating system holds the lock (`flock`; over NFS where the server supports it), so it ends with its process,
however that ends. An object store has no locks: there running.json is a lease that its holder renews, and that expires
`EXPIRES` seconds after the last renewal. Two runs that start within the same second could both get it if the store is so slow
that neither sees the other's; a holder whose renewals fail for longer than `EXPIRES` continues, and another run may start.
"""

import datetime
import json
import os
import socket
import threading
import time
import uuid
from typing import Any

import filelock
import psutil

from bioimg.errors import StorageError, UserError
from bioimg.storage.filesystem import (
    LocalStorage,
    Storage,
    as_storage_error,
    delete_stale_temporaries,
)

HOLDER_FILE = "running.json"
LEASE_RENEWAL_S, LEASE_LIFETIME_S, LEASE_SETTLE_S = 20, 90, 1
"""Seconds between renewals of a lease, until it expires, and until a new one is checked."""


class FolderLock:
    """Held from the moment it is created.

    Raises:
        UserError: another run holds the folder; names it.
    """

    def __init__(self, files: Storage) -> None:
        self._storage = files
        self.session_id = uuid.uuid4().hex
        self._holder_record = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "since": _utc_now(),
            "run": self.session_id,
        }
        self._released = threading.Event()
        if isinstance(files, LocalStorage):
            self._file_lock = _acquire_file_lock(files)
            self._write_holder()
        else:
            self._acquire_lease()

    def release(self) -> None:
        """Leave the folder to others."""
        self._released.set()
        if isinstance(self._storage, LocalStorage):
            self._storage.delete(HOLDER_FILE)
            self._file_lock.release()
        else:
            self._renewal_thread.join()  # it may be writing, and that must not come after the deletion
            self._storage.delete(HOLDER_FILE)

    def _write_holder(self) -> None:
        self._storage.write(
            HOLDER_FILE, json.dumps({**self._holder_record, "renewed": time.time()}).encode()
        )

    def _acquire_lease(self) -> None:
        if held := current_holder(self._storage):
            raise _locked_error(self._storage, held)
        self._write_holder()
        time.sleep(LEASE_SETTLE_S)
        held = _read_holder(self._storage)
        if held and held["run"] != self.session_id:
            raise _locked_error(self._storage, held)
        self._renewal_thread = threading.Thread(target=self._keep_renewing, daemon=True)
        self._renewal_thread.start()

    def _keep_renewing(self) -> None:
        while not self._released.wait(LEASE_RENEWAL_S):
            try:
                self._write_holder()
            except StorageError:
                continue  # whatever writes results reports it


def _acquire_file_lock(files: LocalStorage) -> filelock.BaseFileLock:
    path = files.path / ".lock"
    with as_storage_error(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(path)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            raise _locked_error(files, _read_holder(files) or {}) from None
        delete_stale_temporaries(files.path)
    return lock


def require_lock(files: Storage, run: str) -> None:
    """Check that a run still holds the folder.

    A worker can outlive its program by a moment, during which the same command may have started again.

    Raises:
        Unwritable: it doesn't.
    """
    if (_read_holder(files) or {}).get("run") != run:
        raise StorageError(
            f"{files} is no longer held by the run of this worker, which writes nothing more there."
        )


def current_holder(files: Storage) -> dict[str, Any] | None:
    """Who writes in a folder: host, pid and since; None if nobody does. A process of another host is assumed to live."""
    held = _read_holder(files)
    if held is None:
        return None
    if isinstance(files, LocalStorage):
        return (
            held if held["host"] != socket.gethostname() or psutil.pid_exists(held["pid"]) else None
        )
    return held if time.time() - held["renewed"] < LEASE_LIFETIME_S else None


def _read_holder(files: Storage) -> dict[str, Any] | None:
    try:
        return json.loads(files.read(HOLDER_FILE))
    except (FileNotFoundError, ValueError):
        return None


def _locked_error(files: Storage, held: dict[str, Any]) -> UserError:
    lease = (
        ""
        if isinstance(files, LocalStorage)
        else f" If that run is dead, its claim ends {LEASE_LIFETIME_S} s after its last renewal."
    )
    return UserError(
        f"the value of `out` is {files}, but another run is writing there: process {held.get('pid', 'unknown')} on "
        f"{held.get('host', 'unknown')}, since {held.get('since', 'unknown')}. Wait for it, or name another folder with --out."
        f"{lease}"
    )


def _utc_now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
