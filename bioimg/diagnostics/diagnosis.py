"""What the reports of a cluster's nodes mean: pure functions from reports to check results."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypedDict

GIB = 2**30
MAX_CLOCK_SKEW_S = 5.0
"""Seconds that clocks may differ, with the time of the call. Tables hold times of several nodes."""
MIN_DISK_BYTES = 5 * GIB
"""Free bytes that a node needs for logs, weights and checkpoints."""
MIN_SHM_BYTES = 1 * GIB
"""Free bytes of /dev/shm that a node needs for NCCL and Ray's object store."""


@dataclass(frozen=True)
class CheckResult:
    """The result of one check on one node.

    problem: what is wrong and what to do; None if nothing is.
    remark: what else is worth knowing.
    """

    check: str
    node: str
    problem: str | None = None
    remark: str = ""


class BasicReport(TypedDict):
    """What a node reports of the things that every trial depends on."""

    versions: Mapping[str, str | None]
    import_error: str | None
    storage_error: str | None


class NodeReport(BasicReport):
    """What a node reports of itself. Sizes are in bytes."""

    device_error: str | None
    gpus: float
    gpus_wanted: bool
    weights_here: list[str]
    weights_to_fetch: list[str]
    """Those that a run would download."""
    missing_weights: list[str]
    """Why others can't be downloaded."""
    images_error: str | None
    free_disk: int
    free_shm: int | None
    """None on a system without /dev/shm."""
    object_store: float
    token_mode: int | None
    """The permissions of Ray's token; None if the node has none."""
    authenticated: bool
    clock_skew: float


def diagnose_nodes(reports: Mapping[str, NodeReport | str], image_bytes: int) -> list[CheckResult]:
    """Return every result. `image_bytes` must fit in each node's object store.

    `reports` holds, by node, what the node reported of itself, or why it didn't.
    """
    silent = [
        CheckResult("answers", node, reason)
        for node, reason in reports.items()
        if isinstance(reason, str)
    ]
    answered = {node: report for node, report in reports.items() if not isinstance(report, str)}
    versions = _majority_versions(answered)
    results = []
    for node, report in answered.items():
        results += _node_results(node, report, versions, image_bytes)
    return silent + results


def diagnose_basics(reports: Mapping[str, BasicReport | str]) -> list[CheckResult]:
    """Return the results of what every trial depends on.

    A node that didn't answer gets none: it may be about to leave, which lanes survive.
    """
    answered = {node: report for node, report in reports.items() if not isinstance(report, str)}
    versions = _majority_versions(answered)
    results = []
    for node, report in answered.items():
        results += _basic_results(node, report, versions)
    return results


def _node_results(
    node: str, report: NodeReport, versions: Mapping[str, str | None], image_bytes: int
) -> Iterator[CheckResult]:
    yield from _basic_results(node, report, versions)
    problems = {
        "devices": _device_problem(report),
        "images": _problem_text(
            report["images_error"],
            "Decoded, they are too large to send to the nodes: set BIOIMG_CACHE to a folder that "
            "all share.",
        ),
        "disk": _space_problem(
            "/tmp",
            report["free_disk"],
            MIN_DISK_BYTES,
            "Free some, or give the node a larger disk.",
        ),
        "/dev/shm": _space_problem(
            "/dev/shm",
            report["free_shm"],
            MIN_SHM_BYTES,
            "In a container: --shm-size=4g or more.",
        ),
        "object store": _space_problem(
            "the object store",
            report["object_store"],
            image_bytes,
            "Start Ray there with a larger --object-store-memory (bytes).",
        ),
        "authentication": _token_problem(report["token_mode"], report["authenticated"]),
        "clock": _clock_problem(report["clock_skew"]),
    }
    for check, problem in problems.items():
        yield CheckResult(check, node, problem)
    yield CheckResult(
        "weights", node, _weights_problem(report["missing_weights"]), _weights_remark(report)
    )


def _basic_results(
    node: str, report: BasicReport, versions: Mapping[str, str | None]
) -> Iterator[CheckResult]:
    yield CheckResult("versions", node, _version_problem(report["versions"], versions))
    import_problem = _problem_text(
        report["import_error"], "Install bioimg on this node as on the others."
    )
    yield CheckResult("imports bioimg", node, import_problem)
    storage_problem = _problem_text(
        report["storage_error"],
        "Set --out to a folder that all nodes share and can write to (NFS), or s3://BUCKET/FOLDER.",
    )
    yield CheckResult("results storage", node, storage_problem)


def _majority_versions(reports: Mapping[str, BasicReport]) -> dict[str, str | None]:
    """Return the version of each package that most nodes have, in a tie that of the first node."""
    versions_by_node = [report["versions"] for report in reports.values()]
    names = dict.fromkeys(name for versions in versions_by_node for name in versions)
    majority = {}
    for name in names:
        counts = Counter(versions[name] for versions in versions_by_node)
        ((majority[name], _),) = counts.most_common(1)
    return majority


def _version_problem(
    versions: Mapping[str, str | None], expected: Mapping[str, str | None]
) -> str | None:
    differences = []
    for name, version in versions.items():
        if version != expected[name]:
            others = expected[name] or "missing"
            differences.append(f"{name} {version or 'missing'} (others: {others})")
    missing = [
        f"{name} missing"
        for name, version in versions.items()
        if version is None and expected[name] is None
    ]
    if not differences and not missing:
        return None
    return f"{', '.join(differences + missing)}. Install the same versions on every node."


def _problem_text(error: str | None, way_out: str) -> str | None:
    return f"{error.rstrip('.')}. {way_out}" if error else None


def _device_problem(report: NodeReport) -> str | None:
    if report["gpus_wanted"] and not report["gpus"]:
        return "has no GPU for Ray. Check nvidia-smi there; start a container with --gpus all."
    return _problem_text(
        report["device_error"],
        "Check nvidia-smi there. The driver must support torch's version of CUDA.",
    )


def _weights_problem(reasons: list[str]) -> str | None:
    return _problem_text("; ".join(reasons), "Copy it there, or put it where all nodes see it.")


def _weights_remark(report: NodeReport) -> str:
    remarks = []
    if report["weights_here"]:
        remarks.append(f"here: {', '.join(report['weights_here'])}")
    if report["weights_to_fetch"]:
        to_fetch = ", ".join(report["weights_to_fetch"])
        remarks.append(f"to be downloaded by a run, or now by `bioimg fetch MODEL`: {to_fetch}")
    return "; ".join(remarks)


def _space_problem(name: str, free: float | None, needed: int, way_out: str) -> str | None:
    if free is None or free >= needed:
        return None
    return f"{name} has {free / GIB:.1f} GiB, but needs {needed / GIB:.1f}. {way_out}"


def _token_problem(mode: int | None, authenticated: bool) -> str | None:
    if not authenticated:
        return (
            "anybody who reaches this node can run programs on it. "
            "`ray get-auth-token --generate`; export RAY_AUTH_MODE=token."
        )
    if mode is not None and mode & 0o077:
        return (
            f"~/.ray/auth_token can be read by others (mode {mode:o}). chmod 600 ~/.ray/auth_token"
        )
    return None


def _clock_problem(skew: float) -> str | None:
    if abs(skew) <= MAX_CLOCK_SKEW_S:
        return None
    return f"is {skew:.0f} s off. Enable time synchronisation (chrony, systemd-timesyncd)."
