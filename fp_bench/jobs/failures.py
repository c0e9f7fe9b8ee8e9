"""Failures of a measurement: an exception becomes a status and a one-line reason, and memory is freed."""

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
    """The output differs from the definition, so there will be no time."""


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
    """Select a device and run a first small computation, with which a run is planned.

    Raises:
        UnavailableError: it has no memory for it.
    """
    try:
        use_device(device)
        yield
    except RuntimeError as error:
        if not _is_out_of_memory(error):
            raise
        raise UnavailableError(
            f"{device} has no memory left for planning; stop other programs there, or choose another with --devices"
        ) from None


@dataclass(frozen=True)
class Answer(Generic[T]):
    """Result of a step, and whether its process can be used again."""

    value: T | Failure
    fit: bool = True


def attempt(step: Callable[[], T], device: torch.device, forget: Callable[[], None] = lambda: None) -> Answer[T]:
    """Return the value of a step, or its failure, with memory freed.

    Args:
        step: code of a method, which may raise anything.
        device: device of the step.
        forget: drops the remains of a failed step.
    """
    try:
        value: T | Failure = step()
    except Exception as error:  # the other cells go on
        value = failure(error)
    if isinstance(value, Failure):
        # Only now are the tensors in the error's frames freed.
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
    """Return unreferenced memory to the device."""
    gc.collect()
    _free()


def _free() -> None:
    """Return unused memory to the device for its other workers."""
    # After a kernel wrote out of bounds, this raises too; the records show it.
    with contextlib.suppress(RuntimeError):
        torch.cuda.empty_cache()
