"""Ray itself: join the cluster that this machine belongs to, or start one that is this machine."""

import contextlib
import logging
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import psutil
import ray
import yaml
from ray._private.services import canonicalize_bootstrap_address

from bioimg.errors import UserError

QUIET_INIT_OPTIONS = {"log_to_driver": False, "logging_level": "ERROR"}
JOIN_TIMEOUT_S = 40.0
"""Seconds in which a cluster must let this machine in."""
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
    """Ray is lost, and calls to it never return; `reason` is for the user.

    It isn't an Exception, since Tune would then ask Ray to clean up.
    """

    def __init__(self, reason: UserError) -> None:
        self.user_error = reason


def join_cluster() -> bool:
    """Join a running cluster if this machine is part of one or RAY_ADDRESS names one. Returns whether there is one.

    Raises:
        UserError: there is none at RAY_ADDRESS, or it doesn't let us in.
    """
    if ray.is_initialized():
        return True
    named = os.environ.get("RAY_ADDRESS")
    try:
        found = canonicalize_bootstrap_address(None)  # type: ignore[arg-type]  # "auto" would join another program's own Ray
        if found is None:
            return False
        probe_address(found)
        ray.init(address=found, **QUIET_INIT_OPTIONS)
    except (OSError, ValueError) as error:
        if named:
            raise UserError(
                f"the value of RAY_ADDRESS is {named!r}, but must be the address of a running cluster that lets you in: "
                f"{error}. Check it and the cluster's token, or unset it to use this machine."
            ) from error
        if isinstance(
            error, ConnectionRefusedError
        ):  # a killed cluster left its address on this machine
            return False
        raise UserError(
            f"this machine is part of a cluster that doesn't let you in: {error}. To use the machine alone: RAY_ADDRESS=local."
        ) from error
    return True


def probe_address(address: str) -> None:
    """Check that a Ray lets this machine in: `ray.init` alone would wait for minutes for one that doesn't answer.

    A separate process asks, which can be ended; its log isn't shown.

    Raises:
        ConnectionRefusedError: nothing listens there.
        OSError: nothing answers there, or the reason why we aren't let in.
        ValueError: it isn't HOST:PORT.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    try:
        ended = subprocess.run(
            [sys.executable, "-c", PROBE_SCRIPT, address],
            capture_output=True,
            text=True,
            timeout=JOIN_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        raise TimeoutError(
            f"no Ray answers there within {JOIN_TIMEOUT_S:.0f} s. Is it the port of the head? {TOKEN_HINT}"
        ) from None
    if ended.returncode:
        raise ConnectionError(f"{ended.stderr.strip().splitlines()[-1]} {TOKEN_HINT}")


def start_local_ray() -> None:
    """Start Ray on this machine alone, unless a cluster has been joined."""
    token = Path.home() / ".ray" / "auth_token"
    if not ray.is_initialized():
        create_auth_token(token)
        ray.init(address="local", **QUIET_INIT_OPTIONS)
    if token.exists():
        token.chmod(0o600)  # `ray get-auth-token` writes it readable for all


def create_auth_token(path: Path) -> None:
    """Create the token that Ray asks for, unless there is one; Ray itself would make it readable for all.

    None is created if the environment says that Ray asks for none, or contains or names another.
    """
    asked = os.environ.get("RAY_AUTH_MODE", "token").lower() == "token"
    if (
        asked
        and not path.exists()
        and not {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & {*os.environ}
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", dir=path.parent
        ) as file:  # readable by its owner only
            file.write(secrets.token_hex(32))  # as Ray does
            file.flush()
            with contextlib.suppress(FileExistsError):  # another run created it first
                os.link(file.name, path)


@contextlib.contextmanager
def redirect_ray_output(file: IO[str]) -> Iterator[None]:
    """Have Ray print and log to a file: much of what it calls an error is none, such as a process that is replaced."""
    logger = logging.getLogger("ray")
    before = [*logger.handlers]
    logger.handlers[:] = [logging.StreamHandler(file)]
    try:
        with contextlib.redirect_stdout(file):
            yield
    finally:
        logger.handlers[:] = before


@contextlib.contextmanager
def report_ray_loss() -> Iterator[None]:
    """Report a loss of Ray to the user: through `check` or, where the program waits for what is lost, from another thread.

    Raises:
        UserError: Ray is lost.
    """
    ended = threading.Event()
    threading.Thread(target=_exit_if_stuck, args=(ended,), name="watch", daemon=True).start()
    try:
        yield
    except RayLostError as lost:
        raise lost.user_error from lost
    finally:
        ended.set()


def _exit_if_stuck(ended: threading.Event) -> None:
    while not ended.wait(1):
        if (loss := _ray_loss_error()) and not ended.wait(EXIT_GRACE_S):
            print(f"error: {loss}", file=sys.__stderr__, flush=True)
            os._exit(2)  # the exit code of a program that gave up, as with `check`


def check_ray_alive() -> None:
    """Check that Ray is alive, if this program has started it.

    Raises:
        Lost: part of it isn't.
    """
    if loss := _ray_loss_error():
        raise RayLostError(loss)


def _ray_loss_error() -> UserError | None:
    """What is lost, if anything: without these two processes Ray ends the program after a minute, with no helpful message."""
    node = ray._private.worker._global_node  # type: ignore[attr-defined]  # there is no public call
    for kind, process in node.dead_processes() if node else ():
        if kind in ("raylet", "gcs_server"):
            return UserError(
                f"{kind}, a process of Ray's on this machine, was lost with exit code {process.returncode}: it was killed, or "
                "the machine ran out of memory. All reported epochs are saved; run the same command again to resume."
            )
    return None


def count_devices() -> tuple[str, int]:
    """What trials run on, GPUs if there are any, and how many there are or, on a cluster that grows, can be.

    Raises:
        UserError: this machine has GPUs that torch can't use.
    """
    if ray.is_initialized():
        held, plan = ray.cluster_resources(), _autoscaler_config()
        most = {
            name: max(held.get(name, 0), autoscaler_maximum(plan, name)) for name in ("GPU", "CPU")
        }
        kind = "GPU" if most["GPU"] else "CPU"
        return kind, int(most[kind])
    import torch

    gpus = torch.cuda.device_count()
    if gpus and not torch.cuda.is_available():  # Ray would start lanes on them
        raise UserError(
            f"the number of this machine's GPUs is {gpus}, but torch {torch.__version__} can't use any. Most often, the driver "
            f"is too old for its CUDA {torch.version.cuda}: `nvidia-smi` shows the newest that the driver supports. Update the "
            "driver, install a torch that fits it (https://pytorch.org/get-started), or use the CPU: CUDA_VISIBLE_DEVICES=''."
        )
    return ("GPU", gpus) if gpus else ("CPU", os.cpu_count() or 1)


def autoscaler_maximum(plan: Mapping[str, Any], resource: str) -> float:
    """How much of a resource the machines have together that an autoscaler may start by its configuration."""
    kinds = [
        kind
        for name, kind in plan.get("available_node_types", {}).items()
        if name != plan.get("head_node_type")
    ]
    each = [
        kind.get("resources", {}).get(resource, 0)
        for kind in kinds
        for _ in range(kind.get("max_workers", 0))
    ]
    return sum(sorted(each, reverse=True)[: plan.get("max_workers", 0)])


def _autoscaler_config() -> dict[str, Any]:
    """The configuration of the autoscaler, which is on the cluster's head; {} if there is none on this machine.

    Ray has no call for it: it is in the file that the autoscaler's process was started with.
    """
    cluster = f"--gcs-address={ray.get_runtime_context().gcs_address}"
    for words in (process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])):
        for file in (
            word.partition("=")[2] for word in words if word.startswith("--autoscaling-config=")
        ):
            if cluster in words:
                return yaml.safe_load(Path(file).expanduser().read_text(encoding="utf-8"))
    return {}


def count_worker_slots(resources: Mapping[str, float]) -> int:
    """How many workers that need these resources the cluster has room for now, if nothing else uses it."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return sum(
        int(min(node.get(name, 0) // need for name, need in resources.items())) for node in nodes
    )
