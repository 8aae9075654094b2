"""Ray itself: its settings, and joining the cluster of this machine or starting one that is it.

It imports of Ray only what starts it: `ray.tune` and `ray.train` take a second more.
"""

import contextlib
import logging
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import ray

from bioimg.cluster import ray_private
from bioimg.errors import UserError

SETTINGS = {
    # Tune: the results folder is the record, and Tune's own files can lose rows
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # Tune: Ctrl-C ends the program, not only the trial
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # Tune: the newer output prints at any verbosity
    "RAY_AIR_NEW_OUTPUT": "0",
    # Train: seconds between two checks of its workers. By default, 2, a dead one is noticed late
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    # Train: a worker that doesn't answer for this many seconds hangs. It answers while it trains,
    # so a long epoch isn't taken for a hang
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "60",
    # Train: one process less
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # Train: seconds that it waits for workers that hang when a lane ends
    "TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S": "5",
}
"""Environment variables that Ray reads, unless the user has set them.

Tune reads its own in this process when it runs. Train passes its own, except the last, from this
process to its controller and to the workers when a lane starts. The controller reads the last one
from the environment that Ray was started in: on a cluster that was joined, Ray's 30 s hold.
"""
QUIET_INIT_OPTIONS = {"log_to_driver": False, "logging_level": "ERROR"}
DASHBOARD_VARIABLE = "RAY_API_SERVER_ADDRESS"
NO_DASHBOARD = "http://127.0.0.1:9"
"""An address at which nothing answers: the port is that of the discard protocol."""
JOIN_TIMEOUT_S = 40.0
"""Seconds in which a cluster must let this machine in."""
MAX_SOCKET_BYTES = 103 if sys.platform == "darwin" else 107
"""Bytes that the path of a Unix socket may take."""
SOCKET_SUFFIX = "/ray/session_2026-01-31_12-00-00_123456_1234567/sockets/plasma_store"
"""What Ray appends to the folder for temporary files, for its longest socket."""
SHORT_TEMP_FOLDER = "/tmp/bioimg-ray-{user}"
EXIT_GRACE_S = 10.0
"""Seconds after a loss by which the program should have ended."""
TOKEN_HINT = (
    "If it asks for a token: copy ~/.ray/auth_token from its head, and export RAY_AUTH_MODE=token"
)
PROBE_SCRIPT = """
import sys, ray
try:
    ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
except Exception as error:
    sys.exit(" ".join(str(error).split()))
"""


class RayLostError(BaseException):
    """Ray is lost, and calls to it never return.

    It derives from BaseException, since Tune would ask Ray to clean up after an Exception.
    """

    def __init__(self, user_error: UserError) -> None:
        self.user_error = user_error


def configure_ray() -> None:
    """Set Ray's environment variables. Call this before Ray is started or joined."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)


def join_cluster() -> bool:
    """Join a cluster if RAY_ADDRESS names one or this machine is part of one.

    Return True if there is one.

    Raises:
        UserError: there is none at RAY_ADDRESS, or it doesn't let this machine in.
    """
    if ray.is_initialized():
        return True
    named_address = os.environ.get("RAY_ADDRESS")
    try:
        address = ray_private.find_cluster_address()
        if address is None:
            return False
        probe_address(address)
        ray.init(address=address, **QUIET_INIT_OPTIONS)
    except (OSError, ValueError) as error:
        if named_address:
            raise UserError(
                f"the value of RAY_ADDRESS is {named_address!r}, but must be the address of a "
                f"running cluster that lets you in: {error}. Check it and the cluster's token, or "
                "unset it to use this machine."
            ) from error
        if isinstance(error, ConnectionRefusedError):
            # a cluster that was killed left its address on this machine
            return False
        raise UserError(
            f"this machine is part of a cluster that doesn't let you in: {error}. "
            "To use the machine alone: RAY_ADDRESS=local."
        ) from error
    return True


def probe_address(address: str) -> None:
    """Check that a Ray lets this machine in.

    `ray.init` alone would wait for minutes for one that doesn't answer. So a separate process tries
    it, which can be ended and whose log isn't shown.

    Raises:
        ConnectionRefusedError: nothing listens at the address.
        OSError: nothing answers there, or this machine isn't let in.
        ValueError: the address isn't HOST:PORT.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    try:
        probe = subprocess.run(
            [sys.executable, "-c", PROBE_SCRIPT, address],
            capture_output=True,
            text=True,
            timeout=JOIN_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        raise TimeoutError(
            f"no Ray answers there within {JOIN_TIMEOUT_S:.0f} s. Is it the port of the head? "
            f"{TOKEN_HINT}"
        ) from None
    if probe.returncode:
        raise ConnectionError(f"{probe.stderr.strip().splitlines()[-1]} {TOKEN_HINT}")


def start_local_ray(*, dashboard: bool = False) -> None:
    """Start Ray on this machine alone, unless a cluster has been joined.

    dashboard: also start Ray's web page, which takes eleven processes.

    Raises:
        UserError: Ray can't start here.
    """
    token_path = Path.home() / ".ray" / "auth_token"
    if not ray.is_initialized():
        try:
            create_auth_token(token_path)
            with contextlib.nullcontext() if dashboard else _name_no_dashboard():
                ray.init(
                    address="local",
                    include_dashboard=dashboard,
                    _temp_dir=choose_temp_folder(),
                    **QUIET_INIT_OPTIONS,
                )
        except Exception as error:  # Ray raises what its many libraries raise
            reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
            raise UserError(
                f"Ray can't start on this machine: {reason}. `bioimg doctor` checks the machine; "
                "--local runs without Ray, one trial after another."
            ) from error
    if token_path.exists():
        token_path.chmod(0o600)  # `ray get-auth-token` makes it readable for all


def choose_temp_folder() -> str | None:
    """Return a folder for Ray's files if the path of the usual one is too long for its sockets.

    Such paths are usual under Slurm, where TMPDIR is a folder of the job.
    """
    usual = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    if len(os.fsencode(usual + SOCKET_SUFFIX)) <= MAX_SOCKET_BYTES:
        return None
    return SHORT_TEMP_FOLDER.format(user=os.getuid())


@contextlib.contextmanager
def _name_no_dashboard() -> Iterator[None]:
    """Tell the processes that start meanwhile that no dashboard answers.

    Ray Train asks it for its controllers, and would wait for its address for 40 s.
    """
    previous = os.environ.get(DASHBOARD_VARIABLE)
    os.environ[DASHBOARD_VARIABLE] = NO_DASHBOARD
    try:
        yield
    finally:
        if previous is None:
            del os.environ[DASHBOARD_VARIABLE]
        else:
            os.environ[DASHBOARD_VARIABLE] = previous


def create_auth_token(path: Path) -> None:
    """Create the token that Ray asks for, readable by its owner only. Ray would let all read it.

    Do nothing if there is one, or if the environment says that Ray asks for none or names another.
    """
    if path.exists() or os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return
    if "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent) as file:  # readable by its owner only
        file.write(secrets.token_hex(32))  # as Ray does
        file.flush()
        with contextlib.suppress(FileExistsError):  # another program has just created it
            os.link(file.name, path)


@contextlib.contextmanager
def redirect_ray_output(file: IO[str]) -> Iterator[None]:
    """Have Ray print and log to a file. It logs normal events, as a replaced process, as errors."""
    logger = logging.getLogger("ray")
    handlers = [*logger.handlers]
    logger.handlers[:] = [logging.StreamHandler(file)]
    try:
        with contextlib.redirect_stdout(file):
            yield
    finally:
        logger.handlers[:] = handlers


@contextlib.contextmanager
def report_ray_loss() -> Iterator[None]:
    """Report a loss of Ray to the user.

    `check_ray_alive` notices it. Where the program waits for what is lost, another thread does, and
    ends the program.

    Raises:
        UserError: Ray is lost.
    """
    is_over = threading.Event()
    threading.Thread(target=_exit_if_stuck, args=(is_over,), name="watch", daemon=True).start()
    try:
        yield
    except RayLostError as error:
        raise error.user_error from error
    finally:
        is_over.set()


def _exit_if_stuck(is_over: threading.Event) -> None:
    while not is_over.wait(1):
        error = _ray_loss_error()
        if error and not is_over.wait(EXIT_GRACE_S):
            print(f"error: {error}", file=sys.__stderr__, flush=True)
            os._exit(2)  # the exit code of every UserError


def check_ray_alive() -> None:
    """Check that Ray is alive, if this program has started it.

    Raises:
        RayLostError: part of it isn't.
    """
    if error := _ray_loss_error():
        raise RayLostError(error)


def _ray_loss_error() -> UserError | None:
    """Return an error if Ray has lost one of the two processes without which it can't continue."""
    for name, process in ray_private.dead_ray_processes():
        if name in ("raylet", "gcs_server"):
            return UserError(
                f"{name}, a process of Ray's on this machine, was lost with exit code "
                f"{process.returncode}: it was killed, or the machine ran out of memory. All "
                "reported epochs are saved, so run the same command again to resume."
            )
    return None
