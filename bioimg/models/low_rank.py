"""Low-rank adaptation (LoRA): each matrix W stays frozen, and a small update BA of it is trained.

W becomes W + BA, where A has r rows and B has r columns (Hu et al. 2021, arXiv:2106.09685). B
starts at zero. The paper's factor alpha / r is 1 here, since a learning rate is chosen anyway. All
matrices of a model's blocks have an update: those of attention and of the layers after it.
"""

import math

import torch
from torch import nn
from torch.nn.utils import parametrize

from bioimg.errors import UserError
from bioimg.models.model_parts import LOW_RANKS, block_names


class LowRankUpdate(nn.Module):
    """Adds a trained update of low rank to a frozen matrix [out, in]."""

    def __init__(self, matrix: torch.Tensor, rank: int) -> None:
        super().__init__()
        rows, columns = matrix.shape
        self.down = nn.Parameter(matrix.new_empty(rank, columns))
        self.up = nn.Parameter(matrix.new_zeros(rows, rank))
        # as the paper's own code draws it
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, matrix: torch.Tensor) -> torch.Tensor:
        """Return the updated matrix, in the precision of the frozen one also under autocast."""
        with torch.autocast(matrix.device.type, enabled=False):
            return matrix + self.up @ self.down


def add_low_rank_updates(model: nn.Module, head_name: str, freeze: str, seed: int) -> None:
    """Give each matrix of a model's blocks a trained update, if `freeze` names a rank.

    The seed determines the updates. The global random state isn't changed.

    Args:
        model: its backbone is frozen.
        head_name: the dotted name of its head, which gets no update.
        freeze: as in the field, such as `lora8`.
    """
    if freeze not in LOW_RANKS:
        return
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module, name in _block_matrices(model, head_name):
            # drawn on the CPU, so that every device starts from the same numbers
            update = LowRankUpdate(getattr(module, name).detach().cpu(), LOW_RANKS[freeze])
            update.to(getattr(module, name).device)
            parametrize.register_parametrization(module, name, update)


def check_low_rank(model: nn.Module, head_name: str, freeze: str, model_name: str) -> None:
    """Check that a model has matrices to update, if `freeze` names a rank.

    Raises:
        UserError: it has none, as a CNN.
    """
    if freeze in LOW_RANKS and not _block_matrices(model, head_name):
        raise UserError(
            f"the value of `freeze` is {freeze!r}, but must be another with `model` "
            f"{model_name!r}, whose blocks have no linear layers to update. Use last1, last2 or "
            "last4, or a transformer."
        )


def merged_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the state dict of a model with its updates added to its matrices.

    It has the names of the model without updates, and is the model's own if there are none.
    """
    state = model.state_dict()
    for module_name, module in model.named_modules():
        if not parametrize.is_parametrized(module):
            continue
        assert isinstance(module.parametrizations, nn.ModuleDict)
        for name in module.parametrizations:
            prefix = f"{module_name}.parametrizations.{name}."
            for key in [key for key in state if key.startswith(prefix)]:
                del state[key]
            state[f"{module_name}.{name}"] = getattr(module, name).detach()
    return state


def _block_matrices(model: nn.Module, head_name: str) -> list[tuple[nn.Module, str]]:
    """List the matrices of a model's blocks, each as its module and its name there."""
    found = []
    for block in block_names(model, head_name):
        for module in model.get_submodule(block).modules():
            if isinstance(module, nn.MultiheadAttention) and module.in_proj_weight is not None:
                found.append((module, "in_proj_weight"))
            elif isinstance(module, nn.Linear):
                found.append((module, "weight"))
    return found
