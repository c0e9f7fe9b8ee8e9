"""How measuring can fail: an exception becomes a status and a reason of one line, and memory is given back."""

import contextlib
import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import torch

from fp_bench.errors import UnavailableError, UnsupportedError, said
from fp_bench.jobs.machine import use_device
from fp_bench.records.record import Status

T = TypeVar("T")


class IncorrectError(RuntimeError):
    """The output is not what the definition says; there will be no time."""


class Failure(NamedTuple):
    """Why a cell has no number."""

    status: Status
    reason: str


def failure(error: Exception) -> Failure:
    """Return the status and the one-line reason of a cell that raised ``error``."""
    text = said(error)[:300] or type(error).__name__
    if _is_out_of_memory(error):
        return Failure("oom", text)
    for kind, status in STATUS_OF.items():
        if isinstance(error, kind):
            return Failure(status, text)
    return Failure("error", f"{type(error).__name__}: {text}")


STATUS_OF: dict[type[Exception], Status] = {
    UnsupportedError: "unsupported",
    UnavailableError: "unavailable",
    IncorrectError: "incorrect",
}


def _is_out_of_memory(error: Exception) -> bool:
    # torch's CPU allocator and third-party kernels raise a plain RuntimeError.
    says = said(error).lower()
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and ("out of memory" in says or "can't allocate memory" in says)
    )


@contextlib.contextmanager
def yardstick(device: torch.device) -> Iterator[None]:
    """Make a device the current one for a first small computation, by which a run is planned.

    Raises:
        UnavailableError: it has no memory even for that.
    """
    try:
        use_device(device)
        yield
    except RuntimeError as error:
        if not _is_out_of_memory(error):
            raise
        raise UnavailableError(
            f"{device} has no memory left to plan with; see what else runs there, or give --devices another"
        ) from None


@dataclass(frozen=True)
class Answer(Generic[T]):
    """What came of a step, and whether its process can be used for another."""

    value: T | Failure
    fit: bool = True


def attempt(step: Callable[[], T], device: torch.device, forget: Callable[[], None] = lambda: None) -> Answer[T]:
    """Return what a step returns, or how it failed, with its memory given back.

    Args:
        step: what a method may raise anything in.
        device: where it computes.
        forget: drops what a failed step leaves behind.
    """
    try:
        value: T | Failure = step()
    except Exception as error:  # the other cells go on
        value = failure(error)
    if isinstance(value, Failure):
        # Only here are the tensors in the error's frames gone.
        forget()
        collect_and_free()
    else:
        _free()
    return Answer(value, fit=_is_fit(value, device))


def _is_fit(value: object, device: torch.device) -> bool:
    if device.type != "cuda":
        return True
    if isinstance(value, Failure) and value.status == "oom":
        return False  # what is left of its memory is in pieces
    try:
        torch.cuda.synchronize(device)
    except RuntimeError:  # an illegal access spoils the whole context
        return False
    return True


def collect_and_free() -> None:
    """Give the memory of everything that is no longer referred to back to the device."""
    gc.collect()
    _free()


def _free() -> None:
    """Give unused memory back to the device, for the other workers on it."""
    # A kernel that wrote out of bounds leaves a context in which this raises too; the records say so.
    with contextlib.suppress(RuntimeError):
        torch.cuda.empty_cache()
