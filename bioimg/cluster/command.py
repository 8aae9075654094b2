"""The command `bioimg doctor`. Ray is imported when it runs, so that its help is instant."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console

if TYPE_CHECKING:
    from bioimg.cluster.verdicts import Line


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """Ask every node of a cluster what it has, before money is spent: each line is ok, or what is wrong and what to do."""

    address: str | None = None
    """HOST:PORT of the cluster's head; by default the cluster that this machine is part of, or this machine alone"""
    out: str = "results"
    """where results will go: every node must see this folder and be able to write there"""
    weights: tuple[str, ...] = ()
    """files of weights that trials will read"""
    workers: int = 1
    """workers of a trial: with more than one, nodes are tried at summing together, as DDP does"""
    gpu: bool = False
    """a worker without a GPU is wrong (the head of a cluster needs none)"""
    needs: float = 0.0
    """GiB of images that each node must hold in Ray's object store"""

    def run(self) -> int:
        """Ask, and print the answers. Returns the exit code: 0, or 1 if anything is wrong.

        Raises:
            UserError: there is no such cluster, or it doesn't let this machine in.
        """
        from bioimg.cluster import doctor

        doctor.join(self.address)
        lines = doctor.examine(doctor.uri(self.out), self.weights, self.workers, self.gpu, int(self.needs * 2**30))
        return show(lines, Console())


def show(lines: "list[Line]", console: Console) -> int:
    """Print verdicts. Returns the exit code."""
    for line in lines:
        text = f"{'wrong' if line.wrong else 'ok':6}{line.check:17}{line.node}{': ' + line.wrong if line.wrong else ''}"
        console.print(text, style="red" if line.wrong else None, markup=False, highlight=False, soft_wrap=True)
    return int(any(line.wrong for line in lines))
