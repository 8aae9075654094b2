"""Find the processes that a test has started, and signal them."""

import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

WORKER = "RayTrainWorker"
CONTROLLER = "TrainController"
COORDINATOR = "Coordinator"
TUNE_TRIAL = "ImplicitFunc"
"""Classes of actors, as Ray shows them in the titles of processes."""


def child_processes(text: str) -> list[psutil.Process]:
    """Return this process's descendants with a text in their command line, the oldest first."""
    pids = {process.pid for process in psutil.Process().children(recursive=True)}
    # some may end meanwhile, which process_iter() allows for
    running = [p for p in psutil.process_iter(["cmdline", "create_time"]) if p.pid in pids]
    found = [p for p in running if text in " ".join(p.info["cmdline"] or [])]
    return sorted(found, key=lambda process: process.info["create_time"])


def actor_processes(actor_class: str) -> list[int]:
    """Return the ids of descendants that run an actor of a class, the oldest first."""
    return [process.pid for process in child_processes(f"ray::{actor_class}")]


def signal_actor(
    actor_class: str, signal_number: signal.Signals, index: int = -1
) -> Callable[[], None]:
    """Return a function that signals one of the processes that run an actor of a class."""
    return lambda: os.kill(actor_processes(actor_class)[index], signal_number)


def processes_of_test(folder: Path) -> list[psutil.Process]:
    """Return all processes whose command line, folder or environment names a test's folder."""
    return [
        process
        for process in psutil.process_iter(["cmdline", "cwd", "environ"])
        if str(folder) in str(process.info)
    ]


def free_port() -> int:
    """Return a port of loopback that no process listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_until(condition: Callable[[], Any], awaited: str, seconds: float = 60) -> Any:
    """Return what `condition` returns once it is true.

    Raises:
        TimeoutError: it is still false after some seconds.
    """
    limit = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > limit:
            raise TimeoutError(f"waited {seconds:.0f} s for {awaited}")
        time.sleep(0.2)
    return value
