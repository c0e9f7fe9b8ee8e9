"""Tables of all methods, and of one in full."""

from collections.abc import Iterator
from contextlib import closing

import torch

from fp_bench.cli.listings.machine import Trials
from fp_bench.cli.listings.parameters import parameter_table, summary
from fp_bench.errors import UnavailableError
from fp_bench.kernels.backend import BACKENDS
from fp_bench.methods.base import AttentionCall, Method
from fp_bench.methods.registry import Spec, create_method, methods
from fp_bench.reports.table import Table

HEAD_DIMS = (16, 32, 64, 80, 96, 112, 128, 192, 256, 512)
"""Head sizes of published models."""
GROUPS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Query heads that share a KV head."""


def method_table() -> Table:
    """Return one row per method: its kernel on this machine, and its rule."""
    with closing(Trials()) as trials:
        rows = [_row(name, trials) for name in methods.targets()]
    return Table("Methods (fpbench methods NAME shows one in full)", ["method", "here", "rule"], rows, numbers=3)


def _row(name: str, trials: Trials) -> list[str]:
    try:
        cls: type[Method] = methods.load(name)
    except UnavailableError as error:
        return [name, "not here", str(error)]
    runs, why_not = trials.tried(Spec(name))
    return [name, runs or "not here", why_not or summary(cls)]


def method_tables(name: str) -> list[Table]:
    """Return the tables of one method in full.

    Raises:
        UsageError: an unknown method.
        UnavailableError: it cannot be imported.
    """
    cls: type[Method] = methods.load(name)
    presets = [
        [preset, ":".join(f"{key}={value}" for key, value in values.items())] for preset, values in cls.presets.items()
    ]
    with closing(Trials()) as trials:
        backends = [[backend, *trials.tried(Spec(name), backend)] for backend in BACKENDS]
    return [
        Table(f"Method {name}", ["what", "value"], [["rule", summary(cls)], ["version", str(cls.version)]], numbers=2),
        parameter_table(cls.Params),
        Table("Presets", ["preset", "sets"], presets, numbers=2),
        Table("Backends", ["backend asked", "runs with", "why not"], backends, numbers=3),
        Table("Not supported", ["call", "reason"], [*_unsupported(create_method(Spec(name)))], numbers=2),
    ]


def _unsupported(method: Method) -> Iterator[list[str]]:
    """Yield the kinds of call that a method refuses with its defaults, with its reason; equal calls share a row."""
    sizes = {"head_dim": {size: _call(head_dim=size) for size in HEAD_DIMS}}
    sizes["query heads a KV head"] = {group: _call(group=group) for group in GROUPS}
    for kind, calls in sizes.items():
        refused = {size: reason for size, call in calls.items() if (reason := method.unsupported(call))}
        if refused:
            yield [f"{kind} {', '.join(map(str, refused))}", [*refused.values()][-1]]
    others = {
        "float32": _call(dtype=torch.float32),
        "a chunk of a prompt (fewer queries than keys)": _call(q_len=128),
        "one query (decode)": _call(q_len=1),
    }
    for kind, call in others.items():
        if reason := method.unsupported(call):
            yield [kind, reason]


def _call(
    *, head_dim: int = 128, group: int = 2, q_len: int = 256, dtype: torch.dtype = torch.bfloat16
) -> AttentionCall:
    """Return a call of 256 keys that has shapes and no data."""
    q = torch.empty(1, q_len, group, head_dim, dtype=dtype, device="meta")
    k = torch.empty(1, 256, 1, head_dim, dtype=dtype, device="meta")
    return AttentionCall(q, k, k, scale=head_dim**-0.5)
