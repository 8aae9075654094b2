"""Everything that relies on parts of Ray that it doesn't promise to keep.

Checked with Ray 2.60.0, the lowest version that pyproject.toml allows.
With another version, tests/cluster and tests/diagnostics show whether these parts still hold.
"""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import ray
import yaml
from ray._private.services import canonicalize_bootstrap_address


def find_cluster_address() -> str | None:
    """Return the address of the cluster that this machine is part of or that RAY_ADDRESS names.

    The public way, `ray.init("auto")`, would also join a Ray that another program has for itself.
    """
    return canonicalize_bootstrap_address(None)  # type: ignore[arg-type]


def dead_ray_processes() -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Yield the name and the process of each part of Ray that this program started and that died.

    No public call reports them: Ray ends the program after a minute, with no helpful message.
    """
    node: Any = ray._private.worker._global_node  # type: ignore[attr-defined]
    if node is not None:
        yield from node.dead_processes()


def autoscaler_config() -> dict[str, Any]:
    """Return the configuration of this cluster's autoscaler, or {} if none runs on this machine.

    No public call returns it. The autoscaler runs on the cluster's head, and its command line names
    its file.
    """
    cluster = f"--gcs-address={ray.get_runtime_context().gcs_address}"
    for process in psutil.process_iter(["cmdline"]):
        arguments = process.info["cmdline"] or []
        if cluster not in arguments:
            continue
        for argument in arguments:
            name, _, path = argument.partition("=")
            if name == "--autoscaling-config":
                return yaml.safe_load(Path(path).expanduser().read_text(encoding="utf-8"))
    return {}


def is_head_node(node: dict[str, Any]) -> bool:
    """Return True if a node, an entry of `ray.nodes()`, is the head. Only a resource shows it."""
    return "node:__internal_head__" in node["Resources"]


def waited_too_long_for_devices(error: BaseException) -> bool:
    """Return True if Ray Train gave up waiting for devices. The class of its error is private."""
    from ray.train import ControllerError

    if not isinstance(error, ControllerError):
        return False
    return "Timeout" in type(error.controller_failure).__name__
