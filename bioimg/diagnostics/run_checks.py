"""Ask every node of a cluster: all checks for `bioimg doctor`, and the quick ones before a run."""

import contextlib
import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ray
from ray import cloudpickle
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from bioimg.cluster import ray_session
from bioimg.cluster.ray_private import is_head_node
from bioimg.diagnostics import node_probe
from bioimg.diagnostics.diagnosis import CheckResult, NodeReport, diagnose_basics, diagnose_nodes
from bioimg.errors import UserError

NODE_TIMEOUT_S = 60.0
"""Seconds in which a node must answer the doctor."""
PREFLIGHT_TIMEOUT_S = 10.0
"""Seconds that a run waits for the answers to the quick part."""


def join_or_start_ray(address: str | None) -> None:
    """Join the cluster at an address, or the one of this machine, or start Ray on this machine.

    Raises:
        UserError: there is none at the address, or it doesn't let this machine in.
    """
    if address:
        try:
            ray_session.probe_address(address)
        except (OSError, ValueError) as error:
            raise UserError(
                f"the value of `--address` is {address!r}, but must be HOST:PORT of a running "
                f"cluster's head (port 6379 unless you chose another): {error}. "
                "Check with `ray status` on the head."
            ) from error
        os.environ["RAY_ADDRESS"] = address
    if not ray_session.join_cluster():
        ray_session.start_local_ray()


def run_all_checks(
    out: str,
    *,
    weights: Sequence[str] = (),
    workers: int = 1,
    gpus_wanted: bool = False,
    image_bytes: int = 0,
    cache_folder: str | None = None,
) -> list[CheckResult]:
    """Return the result of every check on every node that is up.

    Args:
        out: the results folder, a path or a URI.
        weights: files or URLs that trials will read.
        workers: workers of a trial. With more than one, an all-reduce across nodes is tested.
        gpus_wanted: whether each node that trains must have a GPU.
        image_bytes: bytes of images that each node must hold.
        cache_folder: the folder of decoded images, if each node must see it.
    """
    nodes = _alive_nodes()
    out_uri = _folder_uri(out)
    cache_uri = _folder_uri(cache_folder) if cache_folder else None
    with contextlib.ExitStack() as stack:
        try:
            folders = [out_uri, cache_uri] if cache_uri else [out_uri]
            marker = stack.enter_context(_marker_file(folders))
        except (OSError, ValueError) as error:
            problem = f"{error}. Set --out to a writable folder."
            return [CheckResult("results storage", "this machine", problem)]
        probes = [
            _run_on_node(node, node_probe.probe_node, out_uri, marker, tuple(weights), cache_uri)
            for node in nodes
        ]
        device_probes = [
            _run_on_node(node, node_probe.probe_devices, gpus=_gpu_count(node)) for node in nodes
        ]
        # all together, so that the wait for nodes that don't answer is one
        answers = _collect_answers(probes + device_probes)
    reports: dict[str, NodeReport | str] = {}
    for node, answer, device_error in zip(
        nodes, answers[: len(nodes)], answers[len(nodes) :], strict=True
    ):
        report: Any = answer
        if not isinstance(answer, str):
            is_spared = is_head_node(node) and len(nodes) > 1  # trials run on the others
            report = {
                **answer,
                "device_error": device_error,
                "gpus": _gpu_count(node),
                "gpus_wanted": gpus_wanted and not is_spared,
                "object_store": node["Resources"].get("object_store_memory", 0),
            }
        reports[_node_label(node)] = report
    results = diagnose_nodes(reports, image_bytes)
    training_nodes = [node for node in nodes if _gpu_count(node)] or nodes
    if min(workers, len(training_nodes)) > 1:
        results.append(_check_all_reduce(training_nodes[:workers]))
    return results


def run_preflight_checks(out: str) -> None:
    """Check what is quick to check before a run on several nodes. On one node, do nothing.

    Neither torch nor a device is used. `out` is the results folder, a path or a URI.

    Raises:
        UserError: versions differ, a node can't import bioimg, or the nodes don't share `out`.
    """
    nodes = _alive_nodes()
    if len(nodes) == 1:
        return
    out_uri = _folder_uri(out)
    with _marker_file([out_uri]) as marker:
        probes = [_run_on_node(node, node_probe.probe_basics, out_uri, marker) for node in nodes]
        answers = _collect_answers(probes, PREFLIGHT_TIMEOUT_S)
    reports = dict(zip(map(_node_label, nodes), answers, strict=True))
    problems = [
        f"{result.check} on {result.node}: {result.problem}"
        for result in diagnose_basics(reports)
        if result.problem
    ]
    if problems:
        raise UserError(
            f"all nodes must have the same versions and share `out`: {' '.join(problems)} "
            "`bioimg doctor` checks the rest."
        )


def _folder_uri(folder: str) -> str:
    """Return a folder as every node can understand it."""
    return folder if "://" in folder else Path(folder).expanduser().resolve().as_uri()


@contextlib.contextmanager
def _marker_file(folders: Sequence[str]) -> Iterator[str]:
    """Yield the name of a file that is in each folder meanwhile.

    A node that sees it sees the same folder.

    Raises:
        OSError, ValueError: a folder can't be written, or isn't one.
    """
    marker = f".doctor-{secrets.token_hex(8)}"
    try:
        for folder in folders:
            node_probe.write_marker(folder, marker)
        yield marker
    finally:
        for folder in folders:
            with contextlib.suppress(OSError, ValueError):
                node_probe.delete_marker(folder, marker)


def _run_on_node(
    node: dict[str, Any], function: Callable[..., Any], *args: Any, gpus: float = 0
) -> "ray.ObjectRef[Any]":
    """Call a function of `node_probe` on a node.

    The task needs no CPU, so that a busy node and the head answer, too.
    """
    # a node without bioimg can't import the module, so the function brings its code with it
    cloudpickle.register_pickle_by_value(node_probe)
    this_node = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    task = ray.remote(function).options(
        num_cpus=0, num_gpus=gpus, max_retries=0, scheduling_strategy=this_node
    )
    return task.remote(*args)


def _collect_answers(
    calls: "Sequence[ray.ObjectRef[Any]]", timeout: float | None = None
) -> list[Any]:
    """Return the answer to each call, or a text that says why there is none."""
    timeout = timeout or NODE_TIMEOUT_S
    deadline = time.monotonic() + timeout
    answers: dict[ray.ObjectRef[Any], Any] = {}
    pending = list(calls)
    while pending and (seconds_left := deadline - time.monotonic()) > 0:
        ready, pending = ray.wait(pending, timeout=seconds_left)
        for call in ready:
            answers[call] = _answer_or_error(call)
    for call in pending:
        ray.cancel(call, force=True)
    no_answer = (
        f"no answer in {timeout:.0f} s. Is it busy or gone? `ray status` lists the nodes that are "
        "up; restart Ray there."
    )
    return [answers.get(call, no_answer) for call in calls]


def _answer_or_error(call: "ray.ObjectRef[Any]") -> Any:
    """Return an answer, with the clocks' difference if it has a time, or its error as text."""
    try:
        answer = ray.get(call)
    except Exception as error:  # whatever happened there is the result for that node
        last_line = str(error).strip().splitlines()[-1]
        return (
            f"{type(error).__name__}: {last_line}. "
            "Restart Ray there and check its logs in /tmp/ray."
        )
    if isinstance(answer, dict) and "clock" in answer:
        answer["clock_skew"] = answer["clock"] - time.time()
    return answer


def _check_all_reduce(nodes: Sequence[dict[str, Any]]) -> CheckResult:
    """Check a sum over nodes, computed as DDP sums gradients."""
    backend = "nccl" if all(map(_gpu_count, nodes)) else "gloo"
    node_names = ", ".join(map(_node_label, nodes))
    (address,) = _collect_answers([_run_on_node(nodes[0], node_probe.find_free_address)])
    if isinstance(address, str):
        return CheckResult("all-reduce", node_names, address)
    calls = [
        _run_on_node(
            node,
            node_probe.sum_over_nodes,
            rank,
            len(nodes),
            address,
            backend,
            gpus=int(backend == "nccl"),
        )
        for rank, node in enumerate(nodes)
    ]
    expected = len(nodes) * (len(nodes) + 1) / 2
    for total in _collect_answers(calls):
        if total != expected:
            return CheckResult(
                "all-reduce",
                node_names,
                f"{backend}: {total} Each host's name must resolve to its own address "
                "(/etc/hosts), or set GLOO_SOCKET_IFNAME or NCCL_SOCKET_IFNAME.",
            )
    return CheckResult("all-reduce", node_names)


def _alive_nodes() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def _node_label(node: dict[str, Any]) -> str:
    return f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']}:{node['NodeManagerPort']})"


def _gpu_count(node: dict[str, Any]) -> float:
    """Return a node's GPUs. A task that doesn't request them sees none."""
    return node["Resources"].get("GPU", 0)
