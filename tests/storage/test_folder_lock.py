"""Two runs into one folder: the second gets an error, and a dead one holds nothing."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
import torch

from bioimg.errors import StorageError, UserError
from bioimg.results.epoch_summary import EpochMetrics
from bioimg.results.result_store import ResultStore
from bioimg.storage import folder_lock
from bioimg.storage.filesystem import Content, LocalStorage
from bioimg.storage.folder_lock import FolderLock
from bioimg.training.trial_runner import TrialContext, run_trial
from support import example_results, toys
from support.experiments import GRID_PROGRAM, QUICK_FLAGS

HOLD = """
import sys, time
from pathlib import Path
from bioimg.storage.filesystem import LocalStorage
from bioimg.storage.folder_lock import FolderLock
held = FolderLock(LocalStorage(Path(sys.argv[1])))
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def leased(monkeypatch):
    """Leases instead of locks of the operating system, and short ones."""
    monkeypatch.setattr(folder_lock, "LocalStorage", type("NoDisk", (), {}))
    monkeypatch.setattr(folder_lock, "LEASE_SETTLE_S", 0)


@pytest.mark.ray
def test_lock_names_holder_until_it_is_killed(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    with holder, holder.stdout:
        assert holder.stdout.readline() == "held\n"
        told = rf"another run is writing there: process {holder.pid} on .*, since 20.* Wait for it"
        with pytest.raises(UserError, match=told):
            FolderLock(LocalStorage(tmp_path))
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    FolderLock(LocalStorage(tmp_path)).release()


@pytest.mark.nightly
def test_second_program_in_one_folder_stops(tmp_path):
    command = [
        sys.executable,
        str(GRID_PROGRAM),
        *QUICK_FLAGS,
        "--epochs",
        "500",
        "--out",
        str(tmp_path / "out"),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert any("epoch 1/500" in line for line in first.stdout)
        second = subprocess.run(command, capture_output=True, text=True)
        assert first.poll() is None
        first.kill()
    assert second.returncode == 2
    assert f"another run is writing there: process {first.pid} on " in second.stderr
    assert "Traceback" not in second.stderr


def test_worker_of_ended_session_writes_nothing(tmp_path):
    trial = toys.trial(epochs=3)
    first = ResultStore(tmp_path)
    first.open_for_writing(example_results.describe_experiment(trial, {}, toys.images().classes))
    where = TrialContext(
        experiment_name="toy",
        store=ResultStore(tmp_path, first.session_id),
        device=torch.device("cpu"),
    )

    def lose_the_program(epoch: EpochMetrics) -> None:
        if epoch.epoch == 2:
            first.release()
            ResultStore(tmp_path).open_for_writing(first.read_manifest())

    with pytest.raises(StorageError, match="no longer held by the session of this worker"):
        run_trial(trial, toys.dataset(trial), where, lose_the_program)
    assert len(first.tables.trial_rows("epochs", trial.key)) == 2
    assert not first.tables.trial_rows("trials", trial.key)


def test_unwritable_folder_is_reported_by_lock_and_ray_log(
    tmp_path,
):
    (tmp_path / "file").touch()
    with pytest.raises(
        StorageError,
        match=r"file/out/internal/\.lock can't be written: Not a directory\. .* MB are free in",
    ):
        FolderLock(LocalStorage(tmp_path / "file" / "out"))
    with (
        pytest.raises(
            StorageError, match=r"internal/ray/ray\.log can't be written: Not a directory"
        ),
        ResultStore(tmp_path / "file").open_ray_log(),
    ):
        pass


HALFWAY = """
import os, signal, sys
from pathlib import Path
from bioimg.storage.filesystem import LocalStorage
os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
LocalStorage(Path(sys.argv[1])).write("checkpoints/a/resume.pt", bytes(1000))
"""


@pytest.mark.ray
def test_stale_temporary_is_deleted_by_next_lock(
    tmp_path,
):
    assert (
        subprocess.run([sys.executable, "-c", HALFWAY, str(tmp_path)]).returncode == -signal.SIGKILL
    )
    (left,) = (tmp_path / "checkpoints" / "a").iterdir()
    assert (left.name.startswith(".resume.pt."), left.stat().st_size) == (True, 1000)
    FolderLock(LocalStorage(tmp_path)).release()
    assert not left.exists()


def test_temporary_of_living_process_stays(tmp_path, monkeypatch):
    def swept(host: str) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(socket, "gethostname", lambda: host)
            FolderLock(LocalStorage(tmp_path)).release()

    def write_while_swept_by(host: str) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", lambda _: (patch.undo(), swept(host)))
            LocalStorage(tmp_path).write("a", b"whole")

    write_while_swept_by(socket.gethostname())
    assert (tmp_path / "a").read_bytes() == b"whole"
    with pytest.raises(StorageError, match="a can't be written: No such file"):
        write_while_swept_by("elsewhere")
    assert (tmp_path / "a").read_bytes() == b"whole"
    assert not list(tmp_path.glob("*.partial"))


def test_released_folder_can_be_locked_again(tmp_path):
    FolderLock(LocalStorage(tmp_path)).release()
    FolderLock(LocalStorage(tmp_path)).release()
    assert not (tmp_path / "internal" / "running.json").exists()


@pytest.mark.usefixtures("leased")
def test_lease_holds_until_it_expires(tmp_path, monkeypatch):
    first = FolderLock(LocalStorage(tmp_path))
    with pytest.raises(
        UserError, match=rf"process {os.getpid()} on .* its claim ends 90 s after its last renewal"
    ):
        FolderLock(LocalStorage(tmp_path))
    monkeypatch.setattr(folder_lock, "LEASE_LIFETIME_S", 0)
    FolderLock(LocalStorage(tmp_path)).release()
    first.release()


@pytest.mark.usefixtures("leased")
def test_held_lease_is_renewed(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_lock, "LEASE_RENEWAL_S", 0.01)
    held, written = (
        FolderLock(LocalStorage(tmp_path)),
        (tmp_path / "internal" / "running.json").read_bytes(),
    )
    while (tmp_path / "internal" / "running.json").read_bytes() == written:
        time.sleep(0.01)
    held.release()


@pytest.mark.usefixtures("leased")
def test_lease_released_during_renewal_does_not_return(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_lock, "LEASE_RENEWAL_S", 0)
    begun, deleted = threading.Event(), threading.Event()

    class Slow(LocalStorage):
        """A renewal takes long: until the lease is deleted, if that doesn't wait for it."""

        def write(self, name: str, content: Content, *, flush: bool = True) -> None:
            if threading.current_thread() is not threading.main_thread():
                begun.set()
                deleted.wait(0.3)
            super().write(name, content, flush=flush)

        def delete(self, name: str) -> None:
            super().delete(name)
            deleted.set()

    before = threading.enumerate()
    held = FolderLock(Slow(tmp_path))
    (renewal,) = set(threading.enumerate()) - set(before)
    begun.wait()
    held.release()
    renewal.join()
    assert not (tmp_path / "internal" / "running.json").exists()
