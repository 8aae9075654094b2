"""One session at a time in a results folder. A second one gets an error that names the first.

On a disk the operating system holds the lock (over NFS where the server supports it), so it ends
with its process, however that ends. An object store has no locks. There internal/running.json is a
lease that its holder renews, and that expires `LEASE_LIFETIME_S` seconds after the last renewal.

Two limits of a lease: two sessions that start within the same second can both get it if the store
is so slow that neither sees the other's. A holder whose renewals fail for longer than the lease
lives continues, and another session may start.
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
from bioimg.storage.atomic_write import delete_stale_temporaries
from bioimg.storage.filesystem import LocalStorage, Storage, as_storage_error

INTERNAL_FOLDER = "internal"
"""The folder of all files that aren't results, and that users needn't look at."""
HOLDER_FILE = f"{INTERNAL_FOLDER}/running.json"
LOCK_FILE = f"{INTERNAL_FOLDER}/.lock"
LEASE_RENEWAL_S = 20
"""Seconds between two renewals of a lease."""
LEASE_LIFETIME_S = 90
"""Seconds after which a lease that isn't renewed expires."""
LEASE_SETTLE_S = 1
"""Seconds after which a new lease is checked, since another session may have taken it meanwhile."""


class FolderLock:
    """The lock of a results folder, held from the moment it is created until `release`.

    Raises:
        UserError: Another session holds the folder.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self.session_id = uuid.uuid4().hex
        self._holder = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "since": _utc_now(),
            "session": self.session_id,
        }
        self._released = threading.Event()
        if isinstance(storage, LocalStorage):
            self._file_lock = _acquire_file_lock(storage)
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
            self._renewal_thread.join()  # a renewal after the deletion would restore the lease
            self._storage.delete(HOLDER_FILE)

    def _write_holder(self) -> None:
        record = {**self._holder, "renewed": time.time()}
        self._storage.write(HOLDER_FILE, json.dumps(record).encode())

    def _acquire_lease(self) -> None:
        if holder := current_holder(self._storage):
            raise _locked_error(self._storage, holder)
        self._write_holder()
        time.sleep(LEASE_SETTLE_S)
        holder = _read_holder(self._storage)
        if holder and holder["session"] != self.session_id:
            raise _locked_error(self._storage, holder)
        self._renewal_thread = threading.Thread(target=self._keep_renewing, daemon=True)
        self._renewal_thread.start()

    def _keep_renewing(self) -> None:
        while not self._released.wait(LEASE_RENEWAL_S):
            try:
                self._write_holder()
            except StorageError:
                continue  # whatever writes results reports it


def require_lock(storage: Storage, session_id: str) -> None:
    """Check that a session still holds the folder.

    A worker can outlive its program by a moment, during which the same command may have started
    again.

    Raises:
        StorageError: It doesn't.
    """
    holder = _read_holder(storage) or {}
    if holder.get("session") != session_id:
        raise StorageError(
            f"{storage} is no longer held by the session of this worker, which writes nothing more "
            "there."
        )


def current_holder(storage: Storage) -> dict[str, Any] | None:
    """Return who writes in a folder: host, pid and since; None if nobody does.

    A process of another host is assumed to be alive.
    """
    holder = _read_holder(storage)
    if holder is None or not _is_active(holder, storage):
        return None
    return holder


def _is_active(holder: dict[str, Any], storage: Storage) -> bool:
    if isinstance(storage, LocalStorage):
        return holder["host"] != socket.gethostname() or psutil.pid_exists(holder["pid"])
    return time.time() - holder["renewed"] < LEASE_LIFETIME_S


def _acquire_file_lock(storage: LocalStorage) -> filelock.BaseFileLock:
    path = storage.path / LOCK_FILE
    with as_storage_error(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(path)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            raise _locked_error(storage, _read_holder(storage) or {}) from None
        delete_stale_temporaries(storage.path)
    return lock


def _read_holder(storage: Storage) -> dict[str, Any] | None:
    try:
        return json.loads(storage.read(HOLDER_FILE))
    except (FileNotFoundError, ValueError):
        return None


def _locked_error(storage: Storage, holder: dict[str, Any]) -> UserError:
    pid = holder.get("pid", "unknown")
    host = holder.get("host", "unknown")
    since = holder.get("since", "unknown")
    message = (
        f"the value of `out` is {storage}, but another run is writing there: process {pid} on "
        f"{host}, since {since}. Wait for it, or name another folder with --out."
    )
    if not isinstance(storage, LocalStorage):
        message += (
            f" If that run is dead, its claim ends {LEASE_LIFETIME_S} s after its last renewal."
        )
    return UserError(message)


def _utc_now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
