"""Ray starts on this machine, or one line says why it can't."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import ray

from bioimg.cluster import ray_session
from bioimg.errors import UserError
from support import PROJECT

LONG_NAME = "slurm-job-of-a-user-with-a-long-name-" * 3


@pytest.mark.usefixtures("no_ray")
@pytest.mark.parametrize(
    "error",
    [
        OSError("AF_UNIX path length cannot exceed 107 bytes: /x"),
        PermissionError(13, "Permission denied", "/tmp/ray"),
        ConnectionError("Could not connect to the GCS.\nMore lines"),
        TimeoutError(),
        ValueError("a resource is negative"),
        RuntimeError("Failed to start the raylet"),
        AssertionError("no ports"),
        Exception("Failed to read the address of Ray's head"),
        ray.exceptions.RaySystemError("System error"),
        ray.exceptions.AuthenticationError("no token"),
        subprocess.TimeoutExpired("raylet", 30),
        subprocess.CalledProcessError(1, "raylet"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_start_that_fails_is_explained_in_one_line(error, tmp_path, monkeypatch):
    def fail(**_: object) -> None:
        raise error

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(ray, "init", fail)
    with pytest.raises(UserError, match=r"^Ray can't start on this machine: .+ --local") as caught:
        ray_session.start_local_ray()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("variable", ["TMPDIR", "RAY_TMPDIR"])
def test_folder_too_long_for_sockets_is_replaced(variable, monkeypatch):
    for name in ("TMPDIR", "RAY_TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    assert ray_session.choose_temp_folder() is None
    monkeypatch.setenv(variable, f"/tmp/{LONG_NAME}")
    chosen = ray_session.choose_temp_folder()
    assert chosen is not None
    assert len(chosen + ray_session.SOCKET_SUFFIX) <= ray_session.MAX_SOCKET_BYTES


START = """
import ray
from bioimg.cluster import ray_session
ray_session.start_local_ray()
print(ray.get(ray.remote(lambda: "worked").remote()))
"""


@pytest.mark.ray
def test_ray_starts_where_the_folder_for_temporary_files_has_a_long_name(tmp_path):
    with tempfile.TemporaryDirectory(prefix=LONG_NAME) as folder:
        done = subprocess.run(
            [sys.executable, "-c", START],
            env={**os.environ, "TMPDIR": folder},
            cwd=PROJECT,
            capture_output=True,
            text=True,
        )
        assert done.stdout.strip() == "worked", done.stderr
        assert not Path(folder, "ray").exists()
