"""Results on a disk and in an object store: the same table, whatever fails."""

import contextlib
import dataclasses
import json
import logging
import random
import re
import resource
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

import boto3
import pandas as pd
import pyarrow as pa
import pytest
import ray
import torch
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

from bioimg import runner
from bioimg.errors import CorruptFileError, StorageError, UserError
from bioimg.results import schema
from bioimg.results.result_store import ResultStore, read_results
from bioimg.storage import checked_parquet
from bioimg.storage.filesystem import LocalStorage, ObjectStorage, join_path
from bioimg.training import checkpoint_files, checkpoint_pruning, checkpoints
from bioimg.training.loop import train
from bioimg.training.trial_runner import TrialContext, run_trial
from support import example_results, toys
from support.consoles import ActingConsole
from support.experiments import QUICK_FLAGS, run_grid_program
from support.results import assert_no_epoch_repeated, assert_same_results


class Unreliable:
    """An S3 server that answers a share `rate` of requests with 503; a seed decides which."""

    def __init__(self) -> None:
        self.rate, self.failed, self._draw = 0.0, 0, random.Random(0)
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self, threaded=True)
        self.port = self._server.port
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def __call__(self, request: dict, start: Callable) -> Iterable[bytes]:
        if self._draw.random() >= self.rate:
            return self._moto(request, start)
        self.failed += 1
        request["wsgi.input"].read(
            -1 if request.get("wsgi.input_terminated") else int(request.get("CONTENT_LENGTH") or 0)
        )
        start("503 Service Unavailable", [("Content-Length", "0")])
        return []

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(scope="module")
def server():
    """An S3 server with a bucket `lab`."""
    server = Unreliable()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "ACCESS_KEY_ID": "test",
            "SECRET_ACCESS_KEY": "test",
            "DEFAULT_REGION": "us-east-1",
        }.items():
            patch.setenv(f"AWS_{name}", value)
        boto3.client("s3", endpoint_url=f"http://127.0.0.1:{server.port}").create_bucket(
            Bucket="lab"
        )
        yield server
    server.close()


@pytest.fixture
def bucket(server):
    """Makes addresses of folders on that server."""
    return lambda name, port=server.port: (
        f"s3://lab/{name}?scheme=http&endpoint_override=127.0.0.1%3A{port}"
    )


@pytest.fixture(scope="module")
def google():
    """Makes addresses of folders in a bucket `lab` of a Google storage on this machine."""
    pytest.importorskip(
        "gcp_storage_emulator", reason="needs gcp-storage-emulator: pip install -e '.[dev]'"
    )
    with socket.socket() as door:
        door.bind(("localhost", 0))
        port = door.getsockname()[1]
    emulator = [
        sys.executable,
        "-m",
        "gcp_storage_emulator",
        "start",
        f"--port={port}",
        "--in-memory",
        "--default-bucket=lab",
    ]
    with subprocess.Popen(
        emulator, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        yield (
            lambda name: (
                f"gs://anonymous@lab/{name}?scheme=http&endpoint_override=localhost%3A{port}"
            )
        )
        process.terminate()


@pytest.fixture(params=["disk", "bucket", pytest.param("google", marks=pytest.mark.nightly)])
def files(request, tmp_path):
    if request.param == "disk":
        return LocalStorage(tmp_path)
    return ObjectStorage(request.getfixturevalue(request.param)("alike"))


def test_disk_and_object_stores_behave_alike(files):
    files.write("a/b.txt", b"one")
    files.write("a/b.txt", b"two")
    files.write("c.txt", b"")
    assert (files.read("a/b.txt"), files.size("a/b.txt"), files.size("a")) == (b"two", 3, None)
    assert (files.names(), files.names("a"), files.names("none")) == (
        ["a/b.txt", "c.txt"],
        ["a/b.txt"],
        [],
    )
    assert (files.sizes("a"), files.sizes("none")) == ({"a/b.txt": 3}, {})
    files.delete("a/b.txt")
    files.delete("a/b.txt")
    with pytest.raises(FileNotFoundError):
        files.read("a/b.txt")


def test_joined_address_keeps_query_at_end():
    assert (
        join_path("s3://lab/grid?scheme=http", "internal/ray")
        == "s3://lab/grid/internal/ray?scheme=http"
    )
    assert join_path("results/grid", "internal/ray") == "results/grid/internal/ray"


def test_unknown_address_is_refused():
    with pytest.raises(
        UserError,
        match="the value of `out` is 'ftp://lab/grid', but must be a path, s3://bucket/path",
    ):
        ResultStore("ftp://lab/grid")


@pytest.mark.nightly
def test_grid_in_google_bucket_equals_disk(tmp_path, google):
    for out in (tmp_path / "grid", google("grid")):
        assert run_grid_program(*QUICK_FLAGS, "--learning-rate", "0.01", "0.02", "--out", out) == 0
    assert_same_results(read_results(tmp_path / "grid"), read_results(google("grid")))


@pytest.mark.nightly
def test_grid_in_failing_bucket_equals_disk(tmp_path, bucket, server):
    remote, server.rate = bucket("grid"), 0.1
    try:
        for out in (tmp_path / "grid", remote):
            assert (
                run_grid_program(*QUICK_FLAGS, "--learning-rate", "0.01", "0.02", "--out", out) == 0
            )
        ours, theirs = read_results(tmp_path / "grid"), read_results(remote)
    finally:
        server.rate = 0
    assert server.failed > 0
    assert_same_results(ours, theirs)
    names = ObjectStorage(remote).names()
    assert {"report/report.html", "report/comparison.csv", "experiment.json"} <= set(names)
    assert not [name for name in names if "resume" in name or name.startswith("internal/parts/")]


@pytest.mark.nightly
def test_run_resumes_after_bucket_was_unreachable(tmp_path, bucket, server, monkeypatch, capsys):
    monkeypatch.setattr("bioimg.storage.filesystem.MAX_REQUEST_TRIES", 2)
    monkeypatch.setattr(
        "bioimg.storage.folder_lock.LEASE_LIFETIME_S", 0
    )  # the lease of the run that couldn't give it back
    command, remote = [*QUICK_FLAGS, "--epochs", "3"], bucket("away")
    assert run_grid_program(*command, "--out", remote) == 0
    table, file = (
        ObjectStorage(remote).read("trials.parquet"),
        ActingConsole("epoch 2/3", remote, lambda: setattr(server, "rate", 1)),
    )
    try:
        with contextlib.redirect_stdout(file):
            assert run_grid_program(*command, "--seed", "0", "1", "--out", remote) == 2
    finally:
        server.rate = 0
    assert re.search(
        r"can't be \w+, tried 2 times: .*run the same command again", capsys.readouterr().err
    )
    assert ObjectStorage(remote).read("trials.parquet") == table
    assert len(read_results(remote).trials) == 1
    for out in (remote, tmp_path / "grid"):
        assert run_grid_program(*command, "--seed", "0", "1", "--out", out) == 0
    assert_no_epoch_repeated(file.before, read_results(remote).epochs)
    assert_same_results(read_results(remote), read_results(tmp_path / "grid"))


def test_checkpoint_limit_applies_in_bucket(bucket):
    store = ResultStore(bucket("room"))
    for place, key in enumerate("abcde"):
        status, name, size = (
            ("stopped", "resume.pt", 4) if place else ("completed", "best.safetensors", 1)
        )
        store.storage.write(f"checkpoints/{key}/{name}", bytes(size))
        rung = {"stopped_at_rung": place, "rung_metric": "val_score", "rung_score": 0.1}
        store.tables.write("trials", key, [{"key": key, "status": status, "bytes": size, **rung}])
    assert (
        checkpoint_pruning.limit_checkpoint_size(store),
        checkpoint_pruning.limit_checkpoint_size(store),
    ) == (1, 0)
    assert list(store.storage.sizes("checkpoints").values()) == [1, 4, 4, 4]
    assert {row["key"]: row["bytes"] for row in store.tables.all_rows("trials")} == {
        "a": 1,
        "b": 0,
        "c": 4,
        "d": 4,
        "e": 4,
    }


def test_frozen_trials_in_bucket_share_backbone_and_resume(bucket):
    store, short = ResultStore(bucket("frozen")), toys.trial(freeze="features", epochs=1)
    run_trial(short, toys.dataset(short), place(store), lambda epoch: None)
    longer = dataclasses.replace(short, epochs=2)
    store = ResultStore(bucket("frozen"))
    run_trial(longer, toys.dataset(longer), place(store), lambda epoch: None)
    assert store.tables.trial_rows("trials", longer.key)[0]["continued_from"] == short.key
    assert len(store.storage.names("checkpoints/backbones")) == 1
    whole = checkpoints.load_best_model(store.storage, store.checkpoint_folder(longer.key))
    assert whole.tensors.keys() == toys.Toy().state_dict().keys()


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore")
def test_lanes_in_bucket_equal_disk(tmp_path, bucket, no_ray):
    """Ray's processes get the addresses of the object store when it starts."""
    ray.init(address="local", num_cpus=2, log_to_driver=False, logging_level="ERROR")
    try:
        for out in (tmp_path / "grid", bucket("lanes")):
            assert (
                run_grid_program(
                    *[flag for flag in QUICK_FLAGS if flag != "--local"],
                    "--lanes",
                    "1",
                    "--out",
                    out,
                )
                == 0
            )
    finally:
        ray.shutdown()
    assert_same_results(read_results(tmp_path / "grid"), read_results(bucket("lanes")))


@pytest.mark.nightly  # waits for requests that get no answer
def test_unreachable_storage_is_reported(bucket, monkeypatch):
    monkeypatch.setattr("bioimg.storage.filesystem.MAX_REQUEST_TRIES", 2)
    address = bucket("x", port=9)
    with pytest.raises(StorageError, match=r"tried 2 times.*Check the connection to the storage"):
        ObjectStorage(address).write("a", b"a")


# damage


def interrupted(folder: Path, after: int) -> ResultStore:
    """A store with a trial that was killed after some epochs."""
    store, run = ResultStore(folder), toys.run(toys.trial(epochs=5))

    latest = None
    for epoch in train(run):
        latest = checkpoint_files.next_state_file(store.checkpoint_folder(run.trial.key), latest)
        checkpoints.save_state(run, store.storage, latest)
        if epoch.epoch == after:
            return store
    raise AssertionError


def place(store: ResultStore) -> TrialContext:
    return TrialContext(experiment_name="toy", store=store, device=torch.device("cpu"))


def curves(store: ResultStore) -> list[dict]:
    return [
        {**row, "seconds": 0} for row in store.tables.trial_rows("epochs", toys.trial(epochs=5).key)
    ]


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
@pytest.mark.parametrize("both", [False, True], ids=["newest", "both"])
def test_damaged_checkpoint_falls_back_to_previous(damage, both, tmp_path, caplog):
    trial, images = toys.trial(epochs=5), toys.images()
    whole = ResultStore(tmp_path / "whole")
    run_trial(trial, toys.dataset(trial, images), place(whole), lambda epoch: None)
    store = interrupted(tmp_path / "cut", after=3)
    for name in checkpoint_files.STATE_FILES[: 1 + both]:
        path = tmp_path / "cut" / store.checkpoint_folder(trial.key) / name
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes({"truncated": content[:-100], "flipped": content, "empty": b""}[damage])
    with caplog.at_level(logging.WARNING, "bioimg"):
        assert (
            run_trial(trial, toys.dataset(trial, images), place(store), lambda epoch: None)
            == "completed"
        )
    assert caplog.text.count("is damaged. The trial resumes from another state") == 1 + both
    assert curves(store) == curves(whole)
    assert store.tables.trial_rows("predictions", trial.key) == whole.tables.trial_rows(
        "predictions", trial.key
    )


def test_flipped_bits_of_checkpoint_are_detected(tmp_path):
    store, draw = interrupted(tmp_path, after=1), random.Random(0)
    under = store.checkpoint_folder(toys.trial(epochs=5).key)
    content = store.storage.read(f"{under}/resume.pt")
    for position in (*range(40), *(draw.randrange(len(content)) for _ in range(100))):
        changed = bytearray(content)
        changed[position] ^= 1 << draw.randrange(8)
        store.storage.write(f"{under}/resume.pt", bytes(changed))
        after = toys.run(toys.trial(epochs=5))
        checkpoints.load_state(after, store.storage, under)
        assert not after.history


def test_damaged_part_is_reported_and_recomputed(tmp_path, caplog):
    trial, images, store = toys.trial(epochs=5), toys.images(), ResultStore(tmp_path)
    run_trial(trial, toys.dataset(trial, images), place(store), lambda epoch: None)
    epochs = curves(store)
    part = tmp_path / "internal" / "parts" / f"{trial.key}.trials.parquet"
    part.write_bytes(part.read_bytes()[:-9])
    with caplog.at_level(logging.WARNING, "bioimg"):
        assert store.tables.trial_statuses() == {}
    assert "trials.parquet is damaged" in caplog.text
    run_trial(trial, toys.dataset(trial, images), place(store), lambda epoch: None)
    assert (store.tables.trial_statuses(), curves(store)) == ({trial.key: "completed"}, epochs)


def test_flipped_bits_of_table_are_detected():
    known = schema.EPOCHS_SCHEMA
    rows = [
        {"key": "0123456789ab", "epoch": epoch, "val_loss": 1 / epoch, "val_accuracy": 0.5}
        for epoch in (1, 2)
    ]
    table = pa.Table.from_pylist(rows, schema=known)
    content = checked_parquet.encode_table(table)
    assert checked_parquet.decode_table(content, known).equals(table)
    seen = 0
    for bit in range(8 * len(content)):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        try:
            held = checked_parquet.decode_table(bytes(changed), known)
        except CorruptFileError:
            seen += 1
        else:
            assert held.equals(table), f"bit {bit}"
    assert seen > 0.98 * 8 * len(content), "all but those of the checksum's own mark"
    for length in range(len(content)):
        with pytest.raises(CorruptFileError):
            checked_parquet.decode_table(content[:length], known)


def test_tables_are_exchanged_with_other_programs(tmp_path):
    table = pa.Table.from_pylist([{"key": "a", "epoch": 1}], schema=schema.EPOCHS_SCHEMA)
    (tmp_path / "ours.parquet").write_bytes(checked_parquet.encode_table(table))
    pd.read_parquet(tmp_path / "ours.parquet").to_parquet(tmp_path / "theirs.parquet")
    assert checked_parquet.decode_table(
        (tmp_path / "theirs.parquet").read_bytes(), schema.EPOCHS_SCHEMA
    ).equals(table)


def test_damaged_table_is_reported(tmp_path):
    store = ResultStore(tmp_path)
    run_trial(toys.trial(), toys.dataset(toys.trial()), place(store), lambda epoch: None)
    store.tables.merge()
    store.write_manifest({"format": schema.FORMAT_VERSION})
    content = bytearray((tmp_path / "epochs.parquet").read_bytes())
    content[40] ^= 255
    (tmp_path / "epochs.parquet").write_bytes(content)
    with pytest.raises(UserError, match=r"epochs.parquet is damaged .* run the same command again"):
        read_results(tmp_path)


@pytest.mark.parametrize("settled", [False, True])
@pytest.mark.parametrize("table", ["trials", "epochs", "predictions"])
def test_damaged_table_is_restored_from_previous_and_parts(table, settled, tmp_path, caplog):
    store, images = ResultStore(tmp_path), toys.images()
    store.write_manifest({"format": schema.FORMAT_VERSION})
    trials = [toys.trial(seed=seed) for seed in range(3)]
    for trial in trials:
        run_trial(trial, toys.dataset(trial, images), place(store), lambda epoch: None)
        store.tables.merge()
    if settled:
        store.tables.merge_and_delete_parts([trial.key for trial in trials])
    whole, path = read_results(tmp_path), tmp_path / f"{table}.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with caplog.at_level(logging.WARNING, "bioimg"):
        assert store.tables.trial_statuses() == {trial.key: "completed" for trial in trials}
        store.tables.merge([trial.key for trial in trials])
    assert f"{table}.parquet is damaged" in caplog.text
    caplog.clear()
    mended = read_results(tmp_path)
    assert "is damaged" not in caplog.text
    for name in ("trials", "epochs", "predictions"):
        pd.testing.assert_frame_equal(getattr(mended, name), getattr(whole, name))


def test_truncated_manifest_is_reported(tmp_path, capsys):
    command = [*QUICK_FLAGS, "--out", tmp_path / "grid"]
    assert run_grid_program(*command) == 0
    path = tmp_path / "grid" / "experiment.json"
    path.write_bytes(path.read_bytes()[:100])
    capsys.readouterr()
    assert run_grid_program(*command) == 2
    assert "experiment.json can't be read: " in (told := capsys.readouterr().err)
    assert "run the experiment again into another folder (--out)" in told


@pytest.mark.parametrize("version", [1, 7])
def test_results_of_another_format_are_not_resumed(tmp_path, version, capsys, monkeypatch):
    example_results.write_simulated_results(tmp_path / "grid")
    path = tmp_path / "grid" / "experiment.json"
    path.write_text(
        json.dumps(
            {
                **json.loads(path.read_text()),
                "name": "demo",
                "format": version,
                "versions": {"bioimg": "9.0"},
            }
        )
    )
    before = {file: file.read_bytes() for file in (tmp_path / "grid").rglob("*") if file.is_file()}
    monkeypatch.setattr(
        runner.data, "list_datasets", lambda _: pytest.fail("images were looked for")
    )
    assert run_grid_program(*QUICK_FLAGS, "--out", tmp_path / "grid") == 2
    error = capsys.readouterr().err
    assert re.search(
        rf"the `format` of .*experiment\.json is {version}, but must be 2: .* "
        r"Use that version \(9\.0, ",
        error,
    )
    assert {
        file: file.read_bytes() for file in (tmp_path / "grid").rglob("*") if file.is_file()
    } == before


def test_replacing_row_keeps_part_until_tables_have_it(tmp_path, caplog):
    """As when a stopped trial is finished: the table before the last merge doesn't have that."""
    store, key = ResultStore(tmp_path), toys.trial().key
    for status in ("stopped", "completed"):
        store.tables.write("trials", key, [{"key": key, "status": status}])
        store.tables.merge()
    path = tmp_path / "trials.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with caplog.at_level(logging.WARNING, "bioimg"):
        assert store.tables.trial_statuses() == {key: "completed"}
    assert "trials.parquet is damaged" in caplog.text
    store.tables.merge()
    store.tables.merge()
    assert not store.storage.names("internal/parts")
    assert store.tables.trial_statuses() == {key: "completed"}


@pytest.mark.parametrize("settled", [False, True])
def test_rows_are_in_grid_order(tmp_path, settled):
    """And however the tables were brought up to date in between."""
    store, keys = ResultStore(tmp_path), ["a", "b", "c"]
    for key in reversed(keys):
        store.tables.write("trials", key, [{"key": key, "status": "completed"}])
        store.tables.merge()
    if settled:
        store.tables.merge_and_delete_parts(keys)
    else:
        store.tables.merge()
        assert not store.storage.names("internal/parts")
        store.tables.merge(keys)
    assert [row["key"] for row in store.tables.all_rows("trials")] == keys


@pytest.mark.nightly
def test_failed_trial_of_other_grid_is_ignored(tmp_path, capsys):
    assert (
        run_grid_program(
            *QUICK_FLAGS, "--learning-rate", "1e30", "0.01", "--out", tmp_path / "grid"
        )
        == 1
    )
    assert "failed: " in capsys.readouterr().out
    assert (
        run_grid_program(*QUICK_FLAGS, "--learning-rate", "0.01", "--out", tmp_path / "grid") == 0
    )
    assert "failed: " not in capsys.readouterr().out


# no room


@pytest.mark.nightly
def test_full_disk_leaves_tables_whole(tmp_path, capsys):
    command = [*QUICK_FLAGS, "--learning-rate", "0.01", "0.02", "--out", tmp_path / "grid"]
    assert run_grid_program(*command) == 0
    table = (tmp_path / "grid" / "trials.parquet").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        assert run_grid_program(*command, "--seed", "0", "1") == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    error = capsys.readouterr().err
    assert re.search(r"resume.*\.pt can't be written: File too large", error)
    assert "MB are free" in error
    assert "run the same command again" in error
    assert len(read_results(tmp_path / "grid").trials) == 2
    assert (tmp_path / "grid" / "trials.parquet").read_bytes() == table
    assert {path.name for path in (tmp_path / "grid").rglob(".*")} <= {".lock"}, (
        "no temporary file may be left behind"
    )
    assert run_grid_program(*command, "--seed", "0", "1") == 0
    assert len(read_results(tmp_path / "grid").trials) == 4
