"""A plug-in of what is no method, or not what it says it is."""
# ruff: noqa: ARG002

import torch
from odd_methods import Window

from fp_bench.kernels.block_index import BlockIndex
from fp_bench.methods.base import MethodParams


class NoMethod:
    """Not a Method at all."""


class BadParams(Window):
    name = "bad_params"

    class Params(MethodParams):
        def __init__(self, **given):
            raise KeyError("no parameters today")


class UnsayableError(Exception):
    def __str__(self):
        raise ValueError("not this either")


class Unsayable(Window):
    """Raises what cannot be printed."""

    name = "unsayable"

    def select(self, call):
        raise UnsayableError


class NoBackend(Window):
    name = "no_backend"

    def implementation(self, call, index):
        return 5


class NoNumbers(Window):
    """An index of NaN."""

    name = "no_numbers"

    def select(self, call):
        index = super().select(call)
        return BlockIndex(index.blocks * float("nan"), index.counts * float("nan"), index.q_len, index.kv_len)


class Copycat(Window):
    """Calls itself what another is called."""

    name = "dense"


class Patches(Window):
    """Spoils the attention of everyone in its process."""

    name = "patches"

    def select(self, call):
        torch.nn.functional.scaled_dot_product_attention = lambda q, *_, **__: torch.zeros_like(q)
        return super().select(call)
