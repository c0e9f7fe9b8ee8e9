"""Places of a job's work: the devices of this machine, or of others (`fp_bench.jobs.cluster`)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, ParamSpec, TypeVar

import torch

from fp_bench.errors import UnavailableError
from fp_bench.jobs.machine import Machine

P = ParamSpec("P")
T = TypeVar("T")


class PlaceLostError(RuntimeError):
    """A place is lost with everything open there; `Place.replace` finds another.

    Args:
        reason: in one line.
        device: the lost device, because the place may have another by now.
    """

    def __init__(self, reason: str, device: object = None) -> None:
        super().__init__(reason)
        self.device = device


@dataclass(eq=False)
class Place:
    """One device and the processes that work on it, one thing at a time: a device of this machine."""

    own_cores: ClassVar[bool] = False
    """Whether it has its own cores, or shares those of this machine."""

    machine: Machine
    """The device as it is seen there."""
    environment: Mapping[str, Any]
    """Of records of this place."""

    @classmethod
    def of(cls, machine: Machine) -> "Place":
        """Return the place of a device of this machine."""
        return cls(machine, machine.environment())

    def run(self, function: Callable[P, T], /, *args: P.args, **more: P.kwargs) -> T:
        """Call a function there and return what it returns.

        Raises:
            PlaceLostError: the place is gone.
        """
        return function(*args, **more)

    def open(self, make: Callable[P, T], /, *args: P.args, **more: P.kwargs) -> T:
        """Make an object there; its methods run there too, and raise `PlaceLostError` once the place is gone."""
        return make(*args, **more)

    def replace(self, lost: PlaceLostError) -> None:
        """Move to another device after a loss; this machine is not lost while it runs this.

        Raises:
            PlaceLostError: there is none.
        """
        raise lost


def places_here(devices: Sequence[int] | None, most: int = 1) -> list[Place]:
    """Return places of this machine.

    Args:
        devices: numbers of GPUs; None takes the first ones, or the CPU.
        most: largest number to take if none were named.

    Raises:
        UnavailableError: a missing GPU.
    """
    if devices is None and not torch.cuda.is_available():
        return [Place.of(Machine.here())]
    count = torch.cuda.device_count()
    for number in devices or ():
        if number >= count:
            raise UnavailableError(f"--devices {number} is not here: {count} GPUs are visible, numbered from 0")
    numbers = range(min(most, count)) if devices is None else devices
    return [Place.of(Machine.of(torch.device("cuda", number))) for number in numbers]
