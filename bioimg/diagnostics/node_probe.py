"""What a node reports of itself. Sent to it by value, so that a node without bioimg can still report that."""

import importlib.metadata
import os
import platform
import shutil
import socket
import time
import urllib.request
from pathlib import Path
from typing import Any

COMPARED_PACKAGES = ("bioimg", "ray", "torch", "torchvision")


def probe_node(out: str, mark: str, weights: tuple[str, ...], kept: str | None) -> dict[str, Any]:
    """The facts of the node that this runs on.

    Args:
        out: the results folder, as a URI.
        mark: name of a file in it, and in `kept`, that the asking machine has just written.
        weights: files or URLs that trials on this node will read.
        kept: the folder of decoded images that this node will read, as a URI; None if they are sent to it.
    """
    token = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    return {
        **probe_basics(out, mark),
        "broken": _error_text(lambda: __import__("bioimg.cluster.lanes")),
        "absent": [why for place in weights if (why := _why_weights_missing(place))],
        "images": _error_text(lambda: _check_shared_folder(kept, mark)) if kept else None,
        "token_mode": token.stat().st_mode & 0o777 if token.exists() else None,
        "authenticated": os.environ.get("RAY_AUTH_MODE", "").lower()
        == "token",  # as Ray was started here, not as we call it
        "disk": shutil.disk_usage("/tmp").free,
        "shm": shutil.disk_usage("/dev/shm").free if Path("/dev/shm").exists() else None,
        "clock": time.time(),  # last: the asking machine compares it with its own when this arrives
    }


def probe_basics(out: str, mark: str) -> dict[str, Any]:
    """The facts that every trial depends on. Quick: torch isn't imported."""
    return {
        "versions": {
            "python": platform.python_version(),
            **{name: _package_version(name) for name in COMPARED_PACKAGES},
        },
        "broken": _error_text(lambda: __import__("bioimg")),
        "storage": _error_text(lambda: _check_shared_folder(out, mark)),
    }


def probe_devices() -> str | None:
    """What is wrong with the devices that this task was given on its node, if anything."""
    return _error_text(_check_matrix_product)


def write_marker(out: str, name: str) -> None:
    """Create an empty file in the results folder, and the folder if there is none."""
    from pyarrow import fs

    system, folder = fs.FileSystem.from_uri(out)
    system.create_dir(folder)
    system.open_output_stream(f"{folder}/{name}").close()


def delete_marker(out: str, name: str) -> None:
    """Delete a file of the results folder."""
    from pyarrow import fs

    system, folder = fs.FileSystem.from_uri(out)
    system.delete_file(f"{folder}/{name}")


def find_free_address() -> tuple[str, int]:
    """An address of this node, and a free port, at which others can reach it."""
    import ray

    with socket.socket() as door:
        door.bind(("", 0))
        return ray.util.get_node_ip_address(), door.getsockname()[1]


def sum_over_nodes(rank: int, world: int, place: tuple[str, int], backend: str) -> float:
    """The sum over all nodes of rank + 1, computed as DDP does."""
    import datetime

    import torch
    from torch import distributed

    device = "cuda" if backend == "nccl" else "cpu"
    distributed.init_process_group(
        backend,
        f"tcp://{place[0]}:{place[1]}",
        datetime.timedelta(seconds=30),
        world_size=world,
        rank=rank,
    )
    try:
        total = torch.tensor(float(rank + 1), device=device)
        distributed.all_reduce(total)
        return total.item()
    finally:
        distributed.destroy_process_group()


def _package_version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _error_text(action: Any) -> str | None:
    """What went wrong; None if nothing did."""
    try:
        action()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def _why_weights_missing(place: str) -> str | None:
    """Why weights aren't available here: there is no such file, or a URL is neither in torch's cache nor reachable."""
    if not place.startswith("http"):
        return None if Path(place).expanduser().exists() else f"{place}: no such file"
    import torch

    kept = Path(torch.hub.get_dir()) / "checkpoints" / place.rsplit("/", 1)[-1]
    why = None if kept.exists() else _error_text(lambda: _check_url(place))
    return f"{place}: {why}, and there is no {kept}" if why else None


def _check_url(url: str) -> None:
    urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=10).close()


def _check_matrix_product() -> None:
    """Check a product of matrices on every device."""
    import ray
    import torch

    if (seen := torch.cuda.device_count()) < (given := len(ray.get_gpu_ids())):
        raise RuntimeError(
            f"torch {torch.__version__} sees {seen} of the {given} GPUs that Ray gives"
        )
    for device in [f"cuda:{index}" for index in range(torch.cuda.device_count())] or ["cpu"]:
        product = torch.ones(64, 64, device=device) @ torch.ones(64, 64, device=device)
        if not bool((product == 64).all()):
            raise ArithmeticError(f"{device} multiplies wrongly")


def _check_shared_folder(out: str, mark: str) -> None:
    """Check that the asking machine's file is visible, and that a file can be created and deleted."""
    from pyarrow import fs

    system, folder = fs.FileSystem.from_uri(out)
    if system.get_file_info(f"{folder}/{mark}").type == fs.FileType.NotFound:
        raise FileNotFoundError("not the same folder as where bioimg was started")
    own = f"{folder}/{mark}-{socket.gethostname()}-{os.getpid()}"
    system.open_output_stream(own).close()
    system.delete_file(own)
