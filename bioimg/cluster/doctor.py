"""Ask every node of a cluster what it has, before money is spent: `bioimg doctor`."""

import contextlib
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ray
from ray import cloudpickle
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from bioimg.cluster import facts, session
from bioimg.cluster.verdicts import Facts, Line, judge, judge_basics
from bioimg.config import UserError

PATIENCE = 60.0
"""Seconds in which a node must answer."""

QUICK = 10.0
"""Seconds that a run waits for the quick part."""
JOINING = 40.0
"""Seconds in which a cluster must let this machine in. Ray itself tries for minutes."""

TOKEN = "If it asks for a token: copy ~/.ray/auth_token from its head, and export RAY_AUTH_MODE=token."

cloudpickle.register_pickle_by_value(facts)


def join(address: str | None) -> None:
    """Become part of the cluster at an address, or of the one here, or start Ray on this machine alone.

    Raises:
        UserError: nothing can be reached there, or it doesn't let this machine in.
    """
    if not ray.is_initialized():
        if address:
            _reach(address)
            os.environ["RAY_ADDRESS"] = address
        _let_in(os.environ.get("RAY_ADDRESS") or "auto")
    if not session.connect():
        session.start()


def examine(out: str, weights: Sequence[str] = (), workers: int = 1, gpus_wanted: bool = False, needs: int = 0) -> list[Line]:
    """Every verdict on every node that is up.

    Args:
        out: URI of the results folder.
        weights: files or URLs that trials will read.
        workers: workers of a trial; with more than one, nodes are tried at summing together.
        gpus_wanted: whether a node without a GPU is wrong.
        needs: bytes of images that each node must hold.
    """
    nodes = _nodes()
    mark = f".doctor-{secrets.token_hex(8)}"
    try:
        facts.write(out, mark)
    except (OSError, ValueError) as error:
        return [Line("results storage", "this machine", f"{error}. Give --out a folder that can be written.")]
    try:
        asked = [_on(node, facts.gather, out, mark, tuple(weights)) for node in nodes]
        told = _ask([*asked, *(_on(node, facts.product, gpus=_gpus(node)) for node in nodes)])
    finally:
        with contextlib.suppress(OSError):
            facts.remove(out, mark)
    known: Facts = {
        _name(node): fact if isinstance(fact, str) else {**fact, **_held(node), "product": product, "gpus_wanted": wanted}
        for node, fact, product in zip(nodes, told, told[len(nodes) :], strict=False)
        for wanted in [gpus_wanted and (len(nodes) == 1 or not _is_head(node))]
    }
    able = [node for node in nodes if _gpus(node)] or nodes
    return judge(known, needs) + (_together(able[:workers]) if min(workers, len(able)) > 1 else [])


def check(out: str) -> None:
    """Before a run on more than one node: the quick part of `examine`, without torch or a device. Nothing on one node.

    Args:
        out: URI of the results folder, which must be there.

    Raises:
        UserError: versions differ, bioimg can't be imported somewhere, or results aren't in one place for all nodes.
    """
    nodes = _nodes()
    if len(nodes) == 1:
        return
    mark = f".doctor-{secrets.token_hex(8)}"
    facts.write(out, mark)
    try:
        told = _ask([_on(node, facts.basics, out, mark) for node in nodes], QUICK)
    finally:
        facts.remove(out, mark)
    wrong = [line for line in judge_basics(dict(zip(map(_name, nodes), told, strict=True))) if line.wrong]
    if wrong:
        each = " ".join(f"{line.check} on {line.node}: {line.wrong}" for line in wrong)
        raise UserError(f"the nodes of the cluster must be alike and share `out`: {each} `bioimg doctor` checks the rest.")


def uri(out: str) -> str:
    """The results folder as every node can understand it."""
    return out if "://" in out else Path(out).expanduser().resolve().as_uri()


def _ask(calls: Sequence[Any], patience: float | None = None) -> list[Any]:
    """The answer to each call, with the difference of the clocks; or, as a string, why there is none."""
    told: dict[Any, Any] = {}
    patience = patience or PATIENCE
    waiting, until = list(calls), time.monotonic() + patience
    while waiting and (left := until - time.monotonic()) > 0:
        ready, waiting = ray.wait(waiting, timeout=left)
        told |= {call: _answer(call) for call in ready}
    for call in waiting:
        ray.cancel(call, force=True)
    late = f"no answer in {patience:.0f} s. Is it busy or gone? `ray status` lists what is up; start Ray there anew."
    return [told.get(call, late) for call in calls]


def _answer(call: Any) -> Any:
    try:
        answer: Any = ray.get(call)
    except Exception as error:  # whatever happened there is the verdict on that node
        why = str(error).strip().splitlines()[-1]
        return f"{type(error).__name__}: {why}. Start Ray there anew and look at its logs in /tmp/ray."
    return {**answer, "skew": answer["clock"] - time.time()} if isinstance(answer, dict) and "clock" in answer else answer


def _on(node: dict[str, Any], function: Callable[..., Any], *args: Any, gpus: float = 0) -> Any:
    """Call a function on a node. A task holds no CPU, so that a busy or a head node answers too."""
    here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    return ray.remote(function).options(num_cpus=0, num_gpus=gpus, max_retries=0, scheduling_strategy=here).remote(*args)


def _together(nodes: Sequence[dict[str, Any]]) -> list[Line]:
    """The verdict on a sum over nodes, made as DDP makes it."""
    backend = "nccl" if all(node["Resources"].get("GPU") for node in nodes) else "gloo"
    names = ", ".join(map(_name, nodes))
    (place,) = _ask([_on(nodes[0], facts.free_port)])
    if isinstance(place, str):
        return [Line("all-reduce", names, place)]
    gpus = 1 if backend == "nccl" else 0
    sums = _ask([_on(node, facts.all_reduce, rank, len(nodes), place, backend, gpus=gpus) for rank, node in enumerate(nodes)])
    right = len(nodes) * (len(nodes) + 1) / 2
    if all(total == right for total in sums):
        return [Line("all-reduce", names)]
    why = next(total for total in sums if total != right)
    way_out = "Each host's name must resolve to its own address (/etc/hosts), or set GLOO_SOCKET_IFNAME or NCCL_SOCKET_IFNAME."
    return [Line("all-reduce", names, f"{backend}: {why} {way_out}")]


def _nodes() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def _is_head(node: dict[str, Any]) -> bool:
    """Trials run on workers, where there are any: the head needs no GPU."""
    return "node:__internal_head__" in node["Resources"]


def _name(node: dict[str, Any]) -> str:
    return f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']}:{node['NodeManagerPort']})"


def _held(node: dict[str, Any]) -> dict[str, float]:
    return {"gpus": node["Resources"].get("GPU", 0), "store": node["Resources"].get("object_store_memory", 0)}


def _gpus(node: dict[str, Any]) -> float:
    """Without asking for its GPUs a task sees none."""
    return node["Resources"].get("GPU", 0)


def _reach(address: str) -> None:
    """Tell a mistyped address at once.

    Raises:
        UserError: nothing answers at the address.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, ValueError) as error:
        raise _refused(address, f"{error}. Look for it with `ray status` on the head.") from error


def _let_in(address: str) -> None:
    """Join in a process that can be ended, and whose log isn't the user's to read.

    Raises:
        UserError: no Ray answers, or it asks for another token.
    """
    program = "import sys, ray; ray.init(address=sys.argv[1], log_to_driver=False, logging_level='ERROR')"
    try:
        ended = subprocess.run([sys.executable, "-c", program, address], capture_output=True, text=True, timeout=JOINING)
    except subprocess.TimeoutExpired:
        raise _refused(address, f"no Ray answers there within {JOINING:.0f} s. Is it the port of the head? {TOKEN}") from None
    if ended.returncode == 0 or (address == "auto" and "Could not find any running Ray" in ended.stderr):
        return
    raise _refused(address, f"{ended.stderr.strip().splitlines()[-1]} {TOKEN}")


def _refused(address: str, why: str) -> UserError:
    return UserError(
        f"the value of `--address` is {address!r}, but must be HOST:PORT of a running cluster's head (port 6379 unless you "
        f"chose another): {why}"
    )
