"""What the facts of a cluster's nodes mean: pure functions from facts to lines."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

GIB = 2**30
MAX_CLOCK_SKEW_S = 5.0
"""Seconds that clocks may differ, including the time of the call: times in the tables come from several nodes."""
MIN_DISK_BYTES, MIN_SHM_BYTES = 5 * GIB, 1 * GIB
"""Free bytes that a node needs at least: logs, weights and checkpoints; NCCL and Ray's object store."""


@dataclass(frozen=True)
class CheckResult:
    """One verdict: `wrong` is None where all is well, otherwise what is wrong and what to do."""

    check: str
    node: str
    problem: str | None = None


NodeReports = Mapping[str, Mapping[str, Any] | str]
"""What each node reported of itself, or why it didn't, by the node's address."""


def diagnose_nodes(facts: NodeReports, needs: int) -> list[CheckResult]:
    """All verdicts. `needs`: bytes of images that the object store must hold on each node."""
    said = {node: fact for node, fact in facts.items() if not isinstance(fact, str)}
    silent = [
        CheckResult("answers", node, why) for node, why in facts.items() if isinstance(why, str)
    ]
    expected = _majority_versions(said)
    return silent + [
        line for node, fact in said.items() for line in _node_results(node, fact, expected, needs)
    ]


def diagnose_basics(facts: NodeReports) -> list[CheckResult]:
    """The verdicts on `facts.basics`. A node that didn't answer isn't judged: it may be going away, which lanes survive."""
    said = {node: fact for node, fact in facts.items() if not isinstance(fact, str)}
    expected = _majority_versions(said)
    return [line for node, fact in said.items() for line in _basic_results(node, fact, expected)]


def _node_results(
    node: str, fact: Mapping[str, Any], expected: Mapping[str, str | None], needs: int
) -> Iterator[CheckResult]:
    yield from _basic_results(node, fact, expected)
    yield CheckResult("devices", node, _device_problem(fact))
    yield CheckResult("weights", node, _weights_problem(fact["absent"]))
    way_out = "Decoded, they are too large to send to the nodes: set BIOIMG_CACHE to a folder that all share."
    yield CheckResult("images", node, _problem_text(fact["images"], way_out))
    yield CheckResult(
        "disk",
        node,
        _space_problem(
            "/tmp", fact["disk"], MIN_DISK_BYTES, "Free some, or give the node a larger disk."
        ),
    )
    yield CheckResult(
        "/dev/shm",
        node,
        _space_problem(
            "/dev/shm", fact["shm"], MIN_SHM_BYTES, "In a container: --shm-size=4g or more."
        ),
    )
    yield CheckResult(
        "object store",
        node,
        _space_problem(
            "the object store",
            fact["store"],
            needs,
            "Start Ray there with a larger --object-store-memory (bytes).",
        ),
    )
    yield CheckResult(
        "authentication", node, _token_problem(fact["token_mode"], fact["authenticated"])
    )
    yield CheckResult("clock", node, _clock_problem(fact["skew"]))


def _basic_results(
    node: str, fact: Mapping[str, Any], expected: Mapping[str, str | None]
) -> Iterator[CheckResult]:
    yield CheckResult("versions", node, _version_problem(fact["versions"], expected))
    yield CheckResult(
        "imports bioimg",
        node,
        _problem_text(fact["broken"], "Install bioimg on this node as on the others."),
    )
    way_out = (
        "Set --out to a folder that all nodes share and can write to (NFS), or s3://BUCKET/FOLDER."
    )
    yield CheckResult("results storage", node, _problem_text(fact["storage"], way_out))


def _majority_versions(said: Mapping[str, Mapping[str, Any]]) -> dict[str, str | None]:
    """The version of each package that most nodes have; in a tie, that of the node that was asked first."""
    names = list(dict.fromkeys(name for fact in said.values() for name in fact["versions"]))
    return {
        name: Counter(fact["versions"][name] for fact in said.values()).most_common(1)[0][0]
        for name in names
    }


def _version_problem(
    own: Mapping[str, str | None], expected: Mapping[str, str | None]
) -> str | None:
    odd = [
        f"{name} {own[name] or 'missing'} (others: {expected[name] or 'missing'})"
        for name in own
        if own[name] != expected[name]
    ]
    odd += [f"{name} missing" for name in own if own[name] is None and expected[name] is None]
    return f"{', '.join(odd)}. Install the same versions on every node." if odd else None


def _problem_text(error: str | None, way_out: str) -> str | None:
    return f"{error.rstrip('.')}. {way_out}" if error else None


def _device_problem(fact: Mapping[str, Any]) -> str | None:
    if fact["gpus_wanted"] and not fact["gpus"]:
        return "has no GPU for Ray. Check nvidia-smi there; start a container with --gpus all."
    return _problem_text(
        fact["product"], "Check nvidia-smi there; the driver must support torch's version of CUDA."
    )


def _weights_problem(reasons: list[str]) -> str | None:
    return _problem_text("; ".join(reasons), "Copy it there, or put it where all nodes see it.")


def _space_problem(place: str, free: int | None, needed: int, way_out: str) -> str | None:
    if free is None or free >= needed:
        return None
    return f"{place} has {free / GIB:.1f} GiB, but needs {needed / GIB:.1f}. {way_out}"


def _token_problem(mode: int | None, authenticated: bool) -> str | None:
    if not authenticated:
        return "anybody who reaches this node can run programs on it. `ray get-auth-token --generate`; export RAY_AUTH_MODE=token."
    if mode is not None and mode & 0o077:
        return (
            f"~/.ray/auth_token can be read by others (mode {mode:o}). chmod 600 ~/.ray/auth_token"
        )
    return None


def _clock_problem(skew: float) -> str | None:
    return (
        f"is {skew:.0f} s off. Enable time synchronisation (chrony, systemd-timesyncd)."
        if abs(skew) > MAX_CLOCK_SKEW_S
        else None
    )
