"""What a node reports of itself.

These functions are sent to the nodes by value, so that one without bioimg can report its absence.
So nothing of bioimg may be imported here, and what isn't in every Python only where it is used.
"""

import importlib
import importlib.metadata
import os
import platform
import shutil
import socket
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

COMPARED_PACKAGES = ("bioimg", "ray", "torch", "torchvision")


def probe_node(
    out: str, marker: str, weights: tuple[str, ...], cache_folder: str | None
) -> dict[str, Any]:
    """Return the report of the node that this runs on.

    Args:
        out: the results folder, as a URI.
        marker: name of a file in it, and in `cache_folder`, that was just written.
        weights: files or URLs that trials on this node will read.
        cache_folder: the folder of decoded images that this node will read, as a URI; None if they
            are sent to it.
    """
    token_path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    shm_path = Path("/dev/shm")
    images_error = None
    if cache_folder:
        images_error = _error_text(lambda: _check_shared_folder(cache_folder, marker))
    return {
        **probe_basics(out, marker),
        "import_error": _error_text(lambda: importlib.import_module("bioimg.cluster.lanes")),
        **_probe_weights(weights),
        "images_error": images_error,
        "token_mode": token_path.stat().st_mode & 0o777 if token_path.exists() else None,
        # the mode in which Ray was started on this node
        "authenticated": os.environ.get("RAY_AUTH_MODE", "").lower() == "token",
        "free_disk": shutil.disk_usage("/tmp").free,
        "free_shm": shutil.disk_usage(shm_path).free if shm_path.exists() else None,
        # last: the asking machine compares it with its own when this arrives
        "clock": time.time(),
    }


def probe_basics(out: str, marker: str) -> dict[str, Any]:
    """Return the report of what every trial depends on. It is quick, as torch isn't imported."""
    versions = {name: _package_version(name) for name in COMPARED_PACKAGES}
    return {
        "versions": {"python": platform.python_version(), **versions},
        "import_error": _error_text(lambda: importlib.import_module("bioimg")),
        "storage_error": _error_text(lambda: _check_shared_folder(out, marker)),
    }


def probe_devices() -> str | None:
    """Return what is wrong with the devices that this task was given, or None."""
    return _error_text(_check_matrix_product)


def write_marker(folder: str, name: str) -> None:
    """Create an empty file in a folder, and the folder if there is none."""
    from pyarrow import fs

    system, path = fs.FileSystem.from_uri(folder)
    system.create_dir(path)
    system.open_output_stream(f"{path}/{name}").close()


def delete_marker(folder: str, name: str) -> None:
    """Delete a file of a folder."""
    from pyarrow import fs

    system, path = fs.FileSystem.from_uri(folder)
    system.delete_file(f"{path}/{name}")


def find_free_address() -> tuple[str, int]:
    """Return an address of this node and a free port, at which others can reach it."""
    import ray

    with socket.socket() as server:
        server.bind(("", 0))
        return ray.util.get_node_ip_address(), server.getsockname()[1]


def sum_over_nodes(rank: int, world_size: int, address: tuple[str, int], backend: str) -> float:
    """Return the sum of rank + 1 over all nodes, computed as DDP sums gradients."""
    import datetime

    import torch
    from torch import distributed

    host, port = address
    distributed.init_process_group(
        backend,
        f"tcp://{host}:{port}",
        datetime.timedelta(seconds=30),
        world_size=world_size,
        rank=rank,
    )
    try:
        device = "cuda" if backend == "nccl" else "cpu"
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


def _error_text(action: Callable[[], object]) -> str | None:
    """Run an action and return its error as text, or None if it succeeds."""
    try:
        action()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def _probe_weights(locations: tuple[str, ...]) -> dict[str, list[str]]:
    """Return which weights are on this node, which would be downloaded, and why others can't be."""
    here = [location for location in locations if _is_here(location)]
    reasons = {
        location: _why_unreachable(location) for location in locations if location not in here
    }
    return {
        "weights_here": here,
        "weights_to_fetch": [location for location, reason in reasons.items() if not reason],
        "missing_weights": [
            f"{location}: {reason}" for location, reason in reasons.items() if reason
        ],
    }


def _is_here(location: str) -> bool:
    """Return True if a file, or what a cache holds of a URL or repository, is on this node."""
    if location.startswith("hub:"):
        from bioimg.models import hub_files

        return hub_files.find_cached_weights(hub_files.Repository.parse(location)) is not None
    if location.startswith("http"):
        return _cached_file(location).exists()
    return Path(location.removeprefix("file://")).expanduser().exists()


def _why_unreachable(location: str) -> str | None:
    """Return why weights can't be downloaded, or None if they can."""
    if location.startswith("hub:"):
        from bioimg.models import hub_files

        return hub_files.why_unreachable(hub_files.Repository.parse(location))
    if not location.startswith("http"):
        return "no such file"
    reason = _error_text(lambda: _check_url(location))
    return f"{reason}, and there is no {_cached_file(location)}" if reason else None


def _cached_file(url: str) -> Path:
    import torch

    return Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]


def _check_url(url: str) -> None:
    urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=10).close()


def _check_matrix_product() -> None:
    """Check a product of matrices on every device that Ray has given to this task."""
    import ray
    import torch

    visible, given = torch.cuda.device_count(), len(ray.get_gpu_ids())
    if visible < given:
        raise RuntimeError(
            f"torch {torch.__version__} sees {visible} of the {given} GPUs that Ray gives"
        )
    for device in [f"cuda:{index}" for index in range(visible)] or ["cpu"]:
        product = torch.ones(64, 64, device=device) @ torch.ones(64, 64, device=device)
        if not bool((product == 64).all()):
            raise ArithmeticError(f"{device} multiplies wrongly")


def _check_shared_folder(folder: str, marker: str) -> None:
    """Check that the marker is visible here, and that a file can be created and deleted."""
    from pyarrow import fs

    system, path = fs.FileSystem.from_uri(folder)
    if system.get_file_info(f"{path}/{marker}").type == fs.FileType.NotFound:
        raise FileNotFoundError("not the same folder as where bioimg was started")
    own_file = f"{path}/{marker}-{socket.gethostname()}-{os.getpid()}"
    system.open_output_stream(own_file).close()
    system.delete_file(own_file)
