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

from bioimg.config import UserError
from bioimg.results.folder import Disk, Folder, Unwritable, sweep, unwritable

HOLDER = "running.json"
RENEWED, EXPIRES, SETTLES = 20, 90, 1
"""Seconds between renewals of a lease, until it expires, and until a new one is checked."""


class Lock:
    """Held from the moment it is created.

    Raises:
        UserError: another run holds the folder; names it.
    """

    def __init__(self, files: Folder) -> None:
        self._files = files
        self.run = uuid.uuid4().hex
        self._me = {"host": socket.gethostname(), "pid": os.getpid(), "since": _now(), "run": self.run}
        self._ended = threading.Event()
        if isinstance(files, Disk):
            self._lock = _locked(files)
            self._write()
        else:
            self._lease()

    def release(self) -> None:
        """Leave the folder to others."""
        self._ended.set()
        if isinstance(self._files, Disk):
            self._files.delete(HOLDER)
            self._lock.release()
        else:
            self._renewal.join()  # it may be writing, and that must not come after the deletion
            self._files.delete(HOLDER)

    def _write(self) -> None:
        self._files.write(HOLDER, json.dumps({**self._me, "renewed": time.time()}).encode())

    def _lease(self) -> None:
        if held := alive(self._files):
            raise _taken(self._files, held)
        self._write()
        time.sleep(SETTLES)
        held = _holder(self._files)
        if held and held["run"] != self.run:
            raise _taken(self._files, held)
        self._renewal = threading.Thread(target=self._renew, daemon=True)
        self._renewal.start()

    def _renew(self) -> None:
        while not self._ended.wait(RENEWED):
            try:
                self._write()
            except Unwritable:
                continue  # whatever writes results reports it


def _locked(files: Disk) -> filelock.BaseFileLock:
    path = files.path / ".lock"
    with unwritable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(path)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            raise _taken(files, _holder(files) or {}) from None
        sweep(files.path)
    return lock


def require(files: Folder, run: str) -> None:
    """Check that a run still holds the folder.

    A worker can outlive its program by a moment, during which the same command may have started again.

    Raises:
        Unwritable: it doesn't.
    """
    if (_holder(files) or {}).get("run") != run:
        raise Unwritable(f"{files} is no longer held by the run of this worker, which writes nothing more there.")


def alive(files: Folder) -> dict[str, Any] | None:
    """Who writes in a folder: host, pid and since; None if nobody does. A process of another host is assumed to live."""
    held = _holder(files)
    if held is None:
        return None
    if isinstance(files, Disk):
        return held if held["host"] != socket.gethostname() or psutil.pid_exists(held["pid"]) else None
    return held if time.time() - held["renewed"] < EXPIRES else None


def _holder(files: Folder) -> dict[str, Any] | None:
    try:
        return json.loads(files.read(HOLDER))
    except (FileNotFoundError, ValueError):
        return None


def _taken(files: Folder, held: dict[str, Any]) -> UserError:
    lease = "" if isinstance(files, Disk) else f" If that run is dead, its claim ends {EXPIRES} s after its last renewal."
    return UserError(
        f"the value of `out` is {files}, but another run is writing there: process {held.get('pid', 'unknown')} on "
        f"{held.get('host', 'unknown')}, since {held.get('since', 'unknown')}. Wait for it, or name another folder with --out."
        f"{lease}"
    )


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
