"""The command `bioimg fetch`. Models are looked up when it runs, so that its help is instant."""

from dataclasses import dataclass
from typing import Annotated

from rich.console import Console
from tyro.conf import Positional, arg

from bioimg.progress.console import print_plain


@dataclass(frozen=True, kw_only=True)
class FetchCommand:
    """Download weights, for runs without network, or once on each machine.

    They are in the folders that HF_HOME and TORCH_HOME name, which can be copied to other machines.
    """

    model: Annotated[tuple[str, ...], Positional, arg(metavar="MODEL [...]")]
    """Models, as for --model of an experiment"""
    weights: tuple[str, ...] = ("DEFAULT",)
    """Weights that each of them has"""

    def run(self, console: Console | None = None) -> int:
        """Download what isn't on this machine, and print where all came from. Return 0.

        Raises:
            UserError: there are no such models or weights, or they can't be had.
        """
        from bioimg.models.model_source import find_model_source

        console = console or Console()
        for model in self.model:
            source = find_model_source(model)
            for weights in self.weights:
                source.check_weights(weights)
                source.fetch_weights(weights)
                origin = source.weights_origin(weights)
                licence = f", licence {origin.licence}" if origin.licence else ""
                print_plain(console, f"{model} {weights}: {origin.source}{licence}")
        return 0
