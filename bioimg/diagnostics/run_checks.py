"""Check every node of a cluster, before money is spent: `bioimg doctor`."""

import contextlib
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from ray import cloudpickle
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from bioimg.cluster import ray_session
from bioimg.diagnostics import node_probe
from bioimg.diagnostics.diagnosis import CheckResult, diagnose_basics, diagnose_nodes
from bioimg.errors import UserError

NODE_TIMEOUT_S = 60.0
"""Seconds in which a node must answer."""

PREFLIGHT_TIMEOUT_S = 10.0
"""Seconds that a run waits for the quick part."""

cloudpickle.register_pickle_by_value(node_probe)


def join_or_start_ray(address: str | None) -> None:
    """Join the cluster at an address, or the one that this machine is part of, or start Ray on this machine alone.

    Raises:
        UserError: there is none at the address, or it doesn't let this machine in.
    """
    if address:
        try:
            ray_session.probe_address(address)
        except (OSError, ValueError) as error:
            raise UserError(
                f"the value of `--address` is {address!r}, but must be HOST:PORT of a running cluster's head (port 6379 unless "
                f"you chose another): {error}. Check with `ray status` on the head."
            ) from error
        os.environ["RAY_ADDRESS"] = address
    if not ray_session.join_cluster():
        ray_session.start_local_ray()


def run_all_checks(
    out: str,
    weights: Sequence[str] = (),
    workers: int = 1,
    gpus_wanted: bool = False,
    needs: int = 0,
    kept: str | None = None,
) -> list[CheckResult]:
    """Every verdict on every node that is up.

    Args:
        out: URI of the results folder.
        weights: files or URLs that trials will read.
        workers: workers of a trial; with more than one, an all-reduce across nodes is tested.
        gpus_wanted: whether a worker node without a GPU is wrong.
        needs: bytes of images that each node must hold.
        kept: URI of the folder of decoded images, if each node must see it.
    """
    nodes = _alive_nodes()
    with contextlib.ExitStack() as stack:
        try:
            mark = stack.enter_context(_marker_file(out, *([kept] if kept else [])))
        except (OSError, ValueError) as error:
            return [
                CheckResult(
                    "results storage", "this machine", f"{error}. Set --out to a writable folder."
                )
            ]
        gathering = [
            _run_on_node(node, node_probe.probe_node, out, mark, tuple(weights), kept)
            for node in nodes
        ]
        multiplying = [
            _run_on_node(node, node_probe.probe_devices, gpus=_gpu_count(node)) for node in nodes
        ]
        answers = _collect_answers(
            gathering + multiplying
        )  # together, so that the wait for nodes that are silent is one
    known: dict[str, Mapping[str, Any] | str] = {}
    for node, fact, product in zip(
        nodes, answers[: len(nodes)], answers[len(nodes) :], strict=True
    ):
        wanted = gpus_wanted and (len(nodes) == 1 or not _is_head(node))
        more = {**_node_resources(node), "product": product, "gpus_wanted": wanted}
        known[_node_label(node)] = fact if isinstance(fact, str) else {**fact, **more}
    able = [node for node in nodes if _gpu_count(node)] or nodes
    return diagnose_nodes(known, needs) + (
        _check_all_reduce(able[:workers]) if min(workers, len(able)) > 1 else []
    )


def run_preflight_checks(out: str) -> None:
    """Before a run on more than one node: the quick part of `examine`, without torch or a device. Nothing on one node.

    Args:
        out: URI of the results folder, which must be there.

    Raises:
        UserError: versions differ, a node can't import bioimg, or the nodes don't share the results folder.
    """
    nodes = _alive_nodes()
    if len(nodes) == 1:
        return
    with _marker_file(out) as mark:
        told = _collect_answers(
            [_run_on_node(node, node_probe.probe_basics, out, mark) for node in nodes],
            PREFLIGHT_TIMEOUT_S,
        )
    wrong = [
        line
        for line in diagnose_basics(dict(zip(map(_node_label, nodes), told, strict=True)))
        if line.problem
    ]
    if wrong:
        each = " ".join(f"{line.check} on {line.node}: {line.problem}" for line in wrong)
        raise UserError(
            f"all nodes must have the same versions and share `out`: {each} `bioimg doctor` checks the rest."
        )


def folder_uri(folder: str) -> str:
    """A folder as every node can understand it."""
    return folder if "://" in folder else Path(folder).expanduser().resolve().as_uri()


@contextlib.contextmanager
def _marker_file(*folders: str) -> Iterator[str]:
    """The name of a file that is in each of the folders while this is open: a node that sees it sees the same folder.

    Raises:
        OSError, ValueError: a folder can't be written, or isn't one.
    """
    mark = f".doctor-{secrets.token_hex(8)}"
    try:
        for folder in folders:
            node_probe.write_marker(folder, mark)
        yield mark
    finally:
        for folder in folders:
            with contextlib.suppress(OSError, ValueError):
                node_probe.delete_marker(folder, mark)


def _collect_answers(calls: Sequence[Any], patience: float | None = None) -> list[Any]:
    """The answer to each call, with the difference of the clocks; or a string that says why there is none."""
    told: dict[Any, Any] = {}
    patience = patience or NODE_TIMEOUT_S
    waiting, until = list(calls), time.monotonic() + patience
    while waiting and (left := until - time.monotonic()) > 0:
        ready, waiting = ray.wait(waiting, timeout=left)
        told |= {call: _answer_or_error(call) for call in ready}
    for call in waiting:
        ray.cancel(call, force=True)
    late = f"no answer in {patience:.0f} s. Is it busy or gone? `ray status` lists the nodes that are up; restart Ray there."
    return [told.get(call, late) for call in calls]


def _answer_or_error(call: Any) -> Any:
    try:
        answer: Any = ray.get(call)
    except Exception as error:  # whatever happened there, it is the verdict on that node
        why = str(error).strip().splitlines()[-1]
        return f"{type(error).__name__}: {why}. Restart Ray there and check its logs in /tmp/ray."
    return (
        {**answer, "skew": answer["clock"] - time.time()}
        if isinstance(answer, dict) and "clock" in answer
        else answer
    )


def _run_on_node(
    node: dict[str, Any], function: Callable[..., Any], *args: Any, gpus: float = 0
) -> Any:
    """Call a function on a node. The task needs no CPU, so that a busy node or the head answers too."""
    here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    return (
        ray.remote(function)
        .options(num_cpus=0, num_gpus=gpus, max_retries=0, scheduling_strategy=here)
        .remote(*args)
    )


def _check_all_reduce(nodes: Sequence[dict[str, Any]]) -> list[CheckResult]:
    """The verdict on a sum over nodes, computed as DDP does."""
    backend = "nccl" if all(node["Resources"].get("GPU") for node in nodes) else "gloo"
    names = ", ".join(map(_node_label, nodes))
    (place,) = _collect_answers([_run_on_node(nodes[0], node_probe.find_free_address)])
    if isinstance(place, str):
        return [CheckResult("all-reduce", names, place)]
    gpus = 1 if backend == "nccl" else 0
    sums = _collect_answers(
        [
            _run_on_node(
                node, node_probe.sum_over_nodes, rank, len(nodes), place, backend, gpus=gpus
            )
            for rank, node in enumerate(nodes)
        ]
    )
    right = len(nodes) * (len(nodes) + 1) / 2
    if all(total == right for total in sums):
        return [CheckResult("all-reduce", names)]
    why = next(total for total in sums if total != right)
    way_out = "Each host's name must resolve to its own address (/etc/hosts), or set GLOO_SOCKET_IFNAME or NCCL_SOCKET_IFNAME."
    return [CheckResult("all-reduce", names, f"{backend}: {why} {way_out}")]


def _alive_nodes() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def _is_head(node: dict[str, Any]) -> bool:
    """Whether a node is the head, which needs no GPU if there are workers: trials run on those."""
    return "node:__internal_head__" in node["Resources"]


def _node_label(node: dict[str, Any]) -> str:
    return f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']}:{node['NodeManagerPort']})"


def _node_resources(node: dict[str, Any]) -> dict[str, float]:
    return {
        "gpus": node["Resources"].get("GPU", 0),
        "store": node["Resources"].get("object_store_memory", 0),
    }


def _gpu_count(node: dict[str, Any]) -> float:
    """A node's GPUs. A task that doesn't request them sees none."""
    return node["Resources"].get("GPU", 0)
