"""What the facts of a cluster's nodes mean: pure functions from facts to lines."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

GIB = 2**30
SKEW = 5.0
"""Seconds that clocks may differ, including the time of the call: times in the tables come from several nodes."""
DISK, SHM = 5 * GIB, 1 * GIB
"""Free bytes that a node needs at least: logs, weights and checkpoints; NCCL and Ray's object store."""


@dataclass(frozen=True)
class Line:
    """One verdict: `wrong` is None where all is well, otherwise what is wrong and what to do."""

    check: str
    node: str
    wrong: str | None = None


Facts = Mapping[str, Mapping[str, Any] | str]
"""What each node reported of itself, or why it didn't, by the node's address."""


def judge(facts: Facts, needs: int) -> list[Line]:
    """All verdicts. `needs`: bytes of images that the object store must hold on each node."""
    said = {node: fact for node, fact in facts.items() if not isinstance(fact, str)}
    silent = [Line("answers", node, why) for node, why in facts.items() if isinstance(why, str)]
    expected = _usual(said)
    return silent + [line for node, fact in said.items() for line in _node(node, fact, expected, needs)]


def judge_basics(facts: Facts) -> list[Line]:
    """The verdicts on `facts.basics`. A node that didn't answer isn't judged: it may be going away, which lanes survive."""
    said = {node: fact for node, fact in facts.items() if not isinstance(fact, str)}
    expected = _usual(said)
    return [line for node, fact in said.items() for line in _basics(node, fact, expected)]


def _node(node: str, fact: Mapping[str, Any], expected: Mapping[str, str | None], needs: int) -> Iterator[Line]:
    yield from _basics(node, fact, expected)
    yield Line("devices", node, _devices(fact))
    yield Line("weights", node, _absent(fact["absent"]))
    way_out = "Decoded, they are too large to send to the nodes: set BIOIMG_CACHE to a folder that all share."
    yield Line("images", node, _because(fact["images"], way_out))
    yield Line("disk", node, _room("/tmp", fact["disk"], DISK, "Free some, or give the node a larger disk."))
    yield Line("/dev/shm", node, _room("/dev/shm", fact["shm"], SHM, "In a container: --shm-size=4g or more."))
    yield Line(
        "object store",
        node,
        _room("the object store", fact["store"], needs, "Start Ray there with a larger --object-store-memory (bytes)."),
    )
    yield Line("authentication", node, _token(fact["token_mode"], fact["authenticated"]))
    yield Line("clock", node, _clock(fact["skew"]))


def _basics(node: str, fact: Mapping[str, Any], expected: Mapping[str, str | None]) -> Iterator[Line]:
    yield Line("versions", node, _versions(fact["versions"], expected))
    yield Line("imports bioimg", node, _because(fact["broken"], "Install bioimg on this node as on the others."))
    way_out = "Set --out to a folder that all nodes share and can write to (NFS), or s3://BUCKET/FOLDER."
    yield Line("results storage", node, _because(fact["storage"], way_out))


def _usual(said: Mapping[str, Mapping[str, Any]]) -> dict[str, str | None]:
    """The version of each package that most nodes have; in a tie, that of the node that was asked first."""
    names = list(dict.fromkeys(name for fact in said.values() for name in fact["versions"]))
    return {name: Counter(fact["versions"][name] for fact in said.values()).most_common(1)[0][0] for name in names}


def _versions(own: Mapping[str, str | None], expected: Mapping[str, str | None]) -> str | None:
    odd = [
        f"{name} {own[name] or 'missing'} (others: {expected[name] or 'missing'})"
        for name in own
        if own[name] != expected[name]
    ]
    odd += [f"{name} missing" for name in own if own[name] is None and expected[name] is None]
    return f"{', '.join(odd)}. Install the same versions on every node." if odd else None


def _because(error: str | None, way_out: str) -> str | None:
    return f"{error.rstrip('.')}. {way_out}" if error else None


def _devices(fact: Mapping[str, Any]) -> str | None:
    if fact["gpus_wanted"] and not fact["gpus"]:
        return "has no GPU for Ray. Check nvidia-smi there; start a container with --gpus all."
    return _because(fact["product"], "Check nvidia-smi there; the driver must support torch's version of CUDA.")


def _absent(reasons: list[str]) -> str | None:
    return _because("; ".join(reasons), "Copy it there, or put it where all nodes see it.")


def _room(place: str, free: int | None, needed: int, way_out: str) -> str | None:
    if free is None or free >= needed:
        return None
    return f"{place} has {free / GIB:.1f} GiB, but needs {needed / GIB:.1f}. {way_out}"


def _token(mode: int | None, authenticated: bool) -> str | None:
    if not authenticated:
        return (
            "anybody who reaches this node can run programs on it. `ray get-auth-token --generate`; export RAY_AUTH_MODE=token."
        )
    if mode is not None and mode & 0o077:
        return f"~/.ray/auth_token can be read by others (mode {mode:o}). chmod 600 ~/.ray/auth_token"
    return None


def _clock(skew: float) -> str | None:
    return f"is {skew:.0f} s off. Enable time synchronisation (chrony, systemd-timesyncd)." if abs(skew) > SKEW else None
