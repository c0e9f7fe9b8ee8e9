"""Muon for the matrices of the layers, Adam for embeddings and gains.

What both remember of earlier steps fades within about twenty, so it is kept in bfloat16: a checkpoint that holds it
exactly is small enough to travel.
"""

from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor, nn

MUON_RATE, ADAM_RATE = 0.02, 3e-3
MOMENTUM, BETAS, EPSILON = 0.95, (0.9, 0.95), 1e-8
DECAY = 0.01
"""Of matrices, times the rate."""
LARGEST_GRADIENT = 1.0
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of Keller Jordan's iteration (2024), which brings all singular values near one."""


class Optimizer:
    """Changes weights by their gradients.

    Args:
        weights: by name; those of projections are Muon's.
    """

    def __init__(self, weights: Mapping[str, nn.Parameter]) -> None:
        self._weights = dict(weights)
        groups: dict[tuple[int, ...], list[str]] = defaultdict(list)
        for name, weight in weights.items():
            if name.endswith("proj.weight"):
                groups[tuple(weight.shape)].append(name)
        self._groups = list(groups.values())
        self._others = [name for name in weights if not name.endswith("proj.weight")]
        self.momenta: dict[str, Tensor] = {
            f"{kind}.{name}": torch.zeros_like(weight, dtype=torch.bfloat16)
            for name, weight in weights.items()
            for kind in (("momentum",) if name.endswith("proj.weight") else ("mean", "square"))
        }
        """What is remembered, by name."""

    @torch.no_grad()
    def step(self, step: int, rate: float) -> None:
        """Change the weights and clear their gradients.

        Args:
            step: steps taken before.
            rate: share of the highest rates.
        """
        nn.utils.clip_grad_norm_(list(self._weights.values()), LARGEST_GRADIENT)
        for group in self._groups:
            self._muon(group, MUON_RATE * rate)
        for name in self._others:
            self._adam(name, step, ADAM_RATE * rate)
        for weight in self._weights.values():
            weight.grad = None

    def _muon(self, names: list[str], rate: float) -> None:
        weights: list[Tensor] = [self._weights[name] for name in names]
        gradients = torch.stack([_gradient(weight) for weight in weights])
        momenta = torch.stack([self.momenta[f"momentum.{name}"] for name in names]).float()
        momenta.lerp_(gradients, 1 - MOMENTUM)
        for name, momentum in zip(names, momenta, strict=True):
            self.momenta[f"momentum.{name}"].copy_(momentum)
        changes = _orthogonal(gradients.lerp(momenta, MOMENTUM))
        rows, columns = weights[0].shape
        torch._foreach_mul_(weights, 1 - rate * DECAY)
        torch._foreach_add_(weights, list(changes.unbind()), alpha=-rate * max(1.0, rows / columns) ** 0.5)

    def _adam(self, name: str, step: int, rate: float) -> None:
        weight, gradient = self._weights[name], _gradient(self._weights[name])
        mean, square = self.momenta[f"mean.{name}"], self.momenta[f"square.{name}"]
        mean.copy_(mean.float().lerp_(gradient, 1 - BETAS[0]))
        square.copy_(square.float().lerp_(gradient.square(), 1 - BETAS[1]))
        first, second = (1 - beta ** (step + 1) for beta in BETAS)
        weight.addcdiv_(mean.float(), (square.float() / second).sqrt_().add_(EPSILON), value=-rate / first)


def _gradient(weight: Tensor) -> Tensor:
    if weight.grad is None:
        raise RuntimeError("a weight has no gradient")
    return weight.grad


def _orthogonal(matrices: Tensor) -> Tensor:
    """Return matrices of the same directions whose singular values are all near one, ``[count, rows, columns]``."""
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = (matrices.mT if tall else matrices).to(torch.bfloat16 if matrices.is_cuda else torch.float32)
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    a, b, c = NEWTON_SCHULZ
    for _ in range(5):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    result: Tensor = (x.mT if tall else x).float()
    return result
