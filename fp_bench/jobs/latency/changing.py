"""Inputs that change between calls, so that a cached output is found, and that nobody else may change."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from fp_bench.methods.base import AttentionCall

WORDS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Integers by their size in bytes."""
STAYS = 128
"""First tokens that stay in place in other content, because every query reads them."""
WRITES_INPUTS = "it writes into its inputs: Q, K or V changed during the call"
"""Why a method is incorrect."""
CHUNK = 2**22
"""Elements hashed at a time."""


class ChangingCall:
    """An attention call whose numbers change in place: without copies, and each call sees new numbers.

    A change flips the sign of half the channels of V, which changes every output and no selection, and the lowest bit
    of one channel of Q and one of K, the size of a rounding error: the work stays the same. It is undone exactly.

    Args:
        call: from the input source; a method never gets this object, only its tensors.
    """

    def __init__(self, call: AttentionCall) -> None:
        self._own = call
        self._words = [_words(tensor) for tensor in (call.q, call.k, call.v)]
        self._print = fingerprint(call.q, call.k, call.v)
        kind, device = self._words[0].dtype, call.q.device
        self._draw = torch.Generator(device)
        self._draw.seed()
        self._channels = torch.arange(call.head_dim, device=device)
        self.masks = torch.zeros((3, call.head_dim), dtype=kind, device=device)
        """``[3, head_dim]``: currently flipped bits of Q, K and V, in the integer type of their size."""
        self.call = replace(call)
        """The current call for a method."""

    def change(self) -> None:
        """Flip other bits; nothing waits for the device."""
        kind, channels = self.masks.dtype, self._channels

        def draw(below: int, *shape: int) -> Tensor:
            return torch.randint(below, shape, generator=self._draw, device=channels.device)

        lowest = (draw(len(channels), 2, 1) == channels).to(kind)
        signs = draw(2, 1, len(channels)).to(kind) * torch.iinfo(kind).min
        self.show(torch.cat([lowest, signs]))

    def restore(self) -> bool:
        """Undo all changes; return whether the numbers are the original ones, so that nobody else changed them."""
        self.show(torch.zeros_like(self.masks))
        return fingerprint(self._own.q, self._own.k, self._own.v) == self._print

    @contextmanager
    def other(self) -> Iterator[None]:
        """Temporarily hold another document of the same kind, with tokens, and thus the selection, in other places.

        For untimed work: a result cached here does not help a timed call.
        """
        tensors = self._own.q, self._own.k, self._own.v
        for tensor in tensors:
            _roll(tensor, -1)
        self.call = replace(self._own)
        try:
            yield
        finally:
            for tensor in tensors:
                _roll(tensor, 1)
            self.call = replace(self._own)

    def show(self, masks: Tensor) -> None:
        """Temporarily restore the numbers of an earlier call from its `masks`."""
        for words, mask in zip(self._words, masks ^ self.masks, strict=True):
            words ^= mask
        self.masks = masks
        self.call = replace(self._own)


@contextmanager
def flipped(tensor: Tensor, mask: Tensor) -> Iterator[Tensor]:
    """Temporarily flip the bits of a tensor by a mask of `ChangingCall`."""
    words, bits = _words(tensor), mask.to(tensor.device)
    words ^= bits
    try:
        yield tensor
    finally:
        words ^= bits


def fingerprint(*tensors: Tensor) -> tuple[int, ...]:
    """Return a hash of each tensor's bits, which any change of numbers or their places changes."""
    return tuple(_hash(tensor) for tensor in tensors)


def _hash(tensor: Tensor) -> int:
    words = _words(tensor.detach().reshape(-1))
    draw = torch.Generator(tensor.device).manual_seed(1)
    size = min(CHUNK, max(1, len(words)))
    weights = torch.randint(-(2**62), 2**62, (size,), generator=draw, device=tensor.device) * 2 + 1
    total = torch.zeros((), dtype=torch.int64, device=tensor.device)
    for part in torch.split(words, CHUNK):
        total = total * 0x5851F42D4C957F2D + (part.long() * weights[: len(part)]).sum()
    return int(total)


def _words(tensor: Tensor) -> Tensor:
    """Return the same memory as integers."""
    return tensor.view(WORDS[tensor.element_size()])


def _roll(tensor: Tensor, direction: int) -> None:
    """Move tokens by half the length, in place; the other direction moves them back."""
    length = tensor.shape[1]
    stays = STAYS if length > 2 * STAYS else length // 4
    by = direction * ((length - stays) // 2)
    for head in range(tensor.shape[2]):  # one at a time, for the memory
        part = tensor[:, stays:, head]
        part.copy_(part.roll(by, 1))
