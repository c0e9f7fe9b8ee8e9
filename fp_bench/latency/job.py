"""The latency job: cells are checked, then timed in interleaved rounds; each record is written at once."""

import contextlib
import gc
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar

import torch

from fp_bench.errors import UnavailableError
from fp_bench.kernels.block_index import BlockIndex
from fp_bench.latency.measure import Checked, Failure, Timer, Truth, check, dense_truth, failure, measure, timer_for
from fp_bench.latency.plan import Cell, Group, Plan
from fp_bench.machine import DTYPES
from fp_bench.method import AttentionCall
from fp_bench.results.record import Record
from fp_bench.results.store import RecordStore

T = TypeVar("T")


def run(plan: Plan, store: RecordStore) -> Iterator[Record]:
    """Measure what the store does not have yet; yield each record after it is on disk.

    A cell that cannot be measured is a record with its status and reason; the rest goes on.

    Raises:
        UnavailableError: the disk refuses a record.
    """
    if not count_pending(plan, store):
        return
    env = store.add_environment(plan.machine.environment())
    for group in plan.groups:
        for record in _measure_group(plan, group, _pending(group, store)):
            written = record.model_copy(update={"env": env, "time": _now()})
            store.append(written)
            yield written


def count_pending(plan: Plan, store: RecordStore) -> int:
    """Return how many records `run` would write if nothing failed."""
    return sum(len(rounds) for group in plan.groups for rounds in _pending(group, store).values())


Pending = dict[Cell, list[int]]
"""Cells with the rounds that are still to be measured."""


def _pending(group: Group, store: RecordStore) -> Pending:
    pending = {}
    for cell in group.cells:
        done = store.settled(cell.key, cell.asked["code_version"])
        if done is not None and (rounds := [n for n in range(group.effort.rounds) if n not in done]):
            pending[cell] = rounds
    return pending


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True)
class Bench:
    """What the cells of a group share: the tensors, the exact answer on sampled rows, the timer."""

    call: AttentionCall
    truth: Truth
    given: BlockIndex | None
    timer: Timer

    @classmethod
    def prepare(cls, plan: Plan, group: Group) -> "Bench":
        """Make the inputs of a group on the machine's device."""
        seed, device, shape = plan.request.seed, plan.machine.device, group.shape
        dtype = DTYPES[plan.request.dtype]
        q, k, v = plan.source.tensors(shape, layer=group.layer, seed=seed, dtype=dtype, device=device)
        layers = max(plan.source.layers()) + 1
        call = AttentionCall(q, k, v, scale=shape.head_dim**-0.5, layer=group.layer, layers=layers)
        given = plan.source.given_index(shape, seed=seed, device=device)
        return cls(call, dense_truth(call, seed), given, timer_for(device))


def _measure_group(plan: Plan, group: Group, pending: Pending) -> Iterator[Record]:
    """Check every pending cell, then time those that passed, round by round in a shuffled order."""
    if not pending:
        return
    try:
        bench = Bench.prepare(plan, group)
    except Exception as error:
        found = failure(error)
        yield from (cell.failed(rounds[0], found) for cell, rounds in pending.items())
        return
    ready: dict[Cell, Checked] = {}
    for cell, rounds in pending.items():
        checked = _attempt(partial(_check, cell, bench))
        if isinstance(checked, Failure):
            yield cell.failed(rounds[0], checked)
        else:
            ready[cell] = checked
    for number in range(group.effort.rounds):
        for cell in _shuffled([cell for cell in ready if number in pending[cell]], number):
            timing = _attempt(partial(measure, ready[cell], group.effort, bench.timer))
            if isinstance(timing, Failure):
                del ready[cell]
                yield cell.failed(number, timing)
            else:
                yield cell.timed(number, ready[cell], timing, plan.machine.gpu)
    del bench, ready
    _free()


def _attempt(step: Callable[[], T]) -> T | Failure:
    """Return what a step returns, or how it failed, with its memory given back."""
    try:
        return step()
    except Exception as error:  # a method may raise anything; the other cells go on
        found = failure(error)
    # Only here are the tensors in the error's frames gone.
    _free()
    return found


def _free() -> None:
    gc.collect()
    # A kernel that wrote out of bounds leaves a context in which this raises too; the records say so.
    with contextlib.suppress(RuntimeError):
        torch.cuda.empty_cache()


def _check(cell: Cell, bench: Bench) -> Checked:
    """Check one cell's method.

    Raises:
        UnavailableError: the method cannot be had here.
        Exception: whatever `measure.check` or the method raises.
    """
    candidate = cell.candidate
    if candidate.method is None:
        raise UnavailableError(candidate.problem)
    return check(candidate.method, bench.call, bench.truth, bench.timer, bench.given)


def _shuffled(cells: Sequence[Cell], number: int) -> list[Cell]:
    """Return the cells in an order that differs between rounds and seeds, and is the same in every run."""
    order = list(cells)
    random.Random(f"{[cell.key for cell in cells]} {number}").shuffle(order)
    return order
