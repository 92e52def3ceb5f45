"""Low-rank adapters (LoRA, Hu et al. 2021): learn ``W + up down`` instead of a weight W, which stays as it is.

They stand on the weights themselves, not on layers, so every matrix of any network can have one: of linear layers,
convolutions (a row per output, or per input where transposed), embeddings and recurrences. What is no larger than its
adapter would be (biases, norms, narrow layers), and what several layers share, is learned itself. `merged_state` gives
plain weights back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

__all__ = ["LowRank", "add_low_rank", "merged_state", "weights_once"]

_MARK = ".parametrizations."


class LowRank(nn.Module):
    """The sum of a weight and a product of two narrow matrices, which begins as 0.

    ``down`` begins at a scale at which a step of ``up`` moves each weight about as far as a step of the weight itself
    would, so that learning rates carry over.

    Args:
        weight: (n, ...), seen as a matrix (n, m).
        rank: width of the narrow matrices, at least 1.
        generator: of the initial ``down``, on the CPU.
    """

    def __init__(self, weight: Tensor, rank: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        columns = weight[0].numel()
        down = torch.randn((rank, columns), generator=generator) * rank**-0.5
        self.down = nn.Parameter(down.to(weight))
        self.up = nn.Parameter(torch.zeros((len(weight), rank)).to(weight))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weight with what was learned."""
        with torch.autocast(weight.device.type, enabled=False):  # so that merging changes nothing
            return weight + (self.up @ self.down).view_as(weight)


def add_low_rank(
    model: nn.Module, rank: int, generator: torch.Generator | None = None
) -> dict[int, tuple[nn.Parameter, ...]]:
    """Put an adapter on every weight of a model that is larger than its adapter, in place.

    Args:
        model: any network.
        rank: of the adapters.
        generator: of their initial values, on the CPU.

    Returns:
        What to learn in place of each of the model's parameters, by the parameter's `id`: the adapter's own two, or the
        parameter itself.
    """
    places = [
        (module, name, parameter)
        for module in list(model.modules())
        for name, parameter in module.named_parameters(recurse=False)
    ]
    uses = Counter(id(parameter) for _, _, parameter in places)
    learned: dict[int, tuple[nn.Parameter, ...]] = {}
    for module, name, parameter in places:
        rows = parameter.shape[0] if parameter.ndim > 1 else parameter.numel()
        columns = parameter.numel() // max(rows, 1)
        if parameter.ndim < 2 or rank * (rows + columns) >= rows * columns or uses[id(parameter)] > 1:
            learned[id(parameter)] = (parameter,)
            continue
        adapter = LowRank(parameter.detach(), rank, generator)
        parametrize.register_parametrization(module, name, adapter, unsafe=True)  # unsafe: shapes need no check
        learned[id(parameter)] = (adapter.down, adapter.up)
    return learned


@contextmanager
def weights_once(model: nn.Module) -> Iterator[None]:
    """Compute the sums of a model's weights and adapters once, however often they are used within."""
    with parametrize.cached():
        for _, module, name in _adapted(model):
            getattr(module, name)  # here, lest the first use be one without gradients
        yield


@torch.no_grad()
def merged_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the state of a model as it was before `add_low_rank`, by its names then, with what was learned added."""
    state = {name: value.detach().clone() for name, value in model.state_dict().items() if _MARK not in f".{name}"}
    for path, module, name in _adapted(model):
        state[f"{path}.{name}".lstrip(".")] = getattr(module, name).clone()
    return state


def _adapted(model: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """Yield the path and the module of every weight with an adapter, and the weight's name in it."""
    for path, module in model.named_modules():
        if parametrize.is_parametrized(module):
            adapters = module.parametrizations
            assert isinstance(adapters, nn.ModuleDict)
            yield from ((path, module, name) for name in adapters)
