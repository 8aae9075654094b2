"""Ray itself: join the cluster that this machine belongs to, or start one that is this machine."""

import contextlib
import logging
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

import ray
from ray._private.services import canonicalize_bootstrap_address

from bioimg.config import UserError

QUIET = {"log_to_driver": False, "logging_level": "ERROR"}


def connect() -> bool:
    """Join a running cluster if this machine is part of one or RAY_ADDRESS names one. Returns whether there is one."""
    if ray.is_initialized():
        return True
    try:
        _knock(canonicalize_bootstrap_address("auto"))
        ray.init(address="auto", **QUIET)
    except (OSError, ValueError) as error:  # nobody there, nobody who lets us in; not an address
        if address := os.environ.get("RAY_ADDRESS"):
            raise UserError(
                f"the value of RAY_ADDRESS is {address!r}, but must be the address of a running cluster that lets you in: "
                f"{error} Check it and the cluster's token, or unset it to use this machine."
            ) from error
        return False
    return True


def _knock(address: str | None) -> None:
    """See whether anybody listens, for Ray itself tries for minutes: also at the address that a killed cluster left on disk.

    Raises:
        OSError: nobody does.
    """
    if address:
        host, port = address.rsplit(":", 1)
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def start() -> None:
    """Start Ray on this machine alone, unless a cluster has been joined."""
    if not ray.is_initialized():
        ray.init(address="local", **QUIET)
    token = Path.home() / ".ray" / "auth_token"
    if token.exists():
        token.chmod(0o600)  # Ray writes it readable for all


@contextlib.contextmanager
def telling(file: IO[str]) -> Iterator[None]:
    """Have Ray print and log to a file: much of what it calls an error, such as a process that has to be replaced, is none."""
    logger = logging.getLogger("ray")
    before = [*logger.handlers]
    logger.handlers[:] = [logging.StreamHandler(file)]
    try:
        with contextlib.redirect_stdout(file):
            yield
    finally:
        logger.handlers[:] = before


def check() -> None:
    """See whether Ray, where this program has started it, is whole: without these two it ends the program within a minute, and
    says nothing.

    Raises:
        UserError: it isn't.
    """
    node = ray._private.worker._global_node  # type: ignore[attr-defined]  # no public call tells
    for kind, process in node.dead_processes() if node else ():
        if kind in ("raylet", "gcs_server"):
            raise UserError(
                f"{kind}, a process of Ray's on this machine, was lost with exit code {process.returncode}: it was killed, or "
                "the machine ran out of memory. Every epoch that was reported is kept; the same command goes on from here."
            )


def devices() -> tuple[str, int]:
    """What trials run on, GPUs if there are any, and how many of them there are or, where a cluster grows, can be."""
    if ray.is_initialized():
        held = {**ray.cluster_resources()}
        for name, most in (ray._private.state.state.get_max_resources_from_cluster_config() or {}).items():  # type: ignore[attr-defined]
            held[name] = max(held.get(name, 0), most)  # no public call tells what an autoscaler may add; Ray Train asks so, too
        kind = "GPU" if held.get("GPU") else "CPU"
        return kind, int(held.get(kind, 0))
    import torch

    return ("GPU", gpus) if (gpus := torch.cuda.device_count()) else ("CPU", os.cpu_count() or 1)


def slots(resources: Mapping[str, float]) -> int:
    """For how many workers that need so much the cluster has room now, if nobody else uses it."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return sum(int(min(node.get(name, 0) // need for name, need in resources.items())) for node in nodes)
