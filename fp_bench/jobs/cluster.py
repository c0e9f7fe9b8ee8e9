"""Places of a Ray cluster: one actor per GPU, or per share of the cores without GPUs.

An actor holds the objects that a job opens there and calls their methods. The work runs in worker processes that
the actor starts, as on one machine (`fp_bench.jobs.isolation`): a crash ends the method's process and not
the place. A lost place (a lost machine or a killed actor) is a different error.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, ParamSpec, TypeVar, cast

from fp_bench.errors import UnavailableError, first_line
from fp_bench.jobs.isolation import START_SECONDS
from fp_bench.jobs.machine import Machine
from fp_bench.jobs.places import Place, PlaceLostError

P = ParamSpec("P")
T = TypeVar("T")

LOCAL = "local"
"""Starts Ray on this machine; any other address joins a cluster."""
CALLS_AT_ONCE = 64
"""Largest number of workers per GPU, each waiting in a call."""


@contextmanager
def ray_places(address: str, workers: int | None) -> Iterator[list["RayPlace"]]:
    """Join a cluster and take one place per GPU, or per worker without GPUs.

    Args:
        address: ``local``, ``auto`` (the cluster that this machine is part of) or ``HOST:PORT``.
        workers: number of places without GPUs; None: one.

    Raises:
        UnavailableError: Ray is not installed, or no cluster answers.
    """
    try:
        import ray
    except ImportError:
        raise UnavailableError("--ray needs Ray; install it with: pip install 'fp_bench[ray]'") from None
    try:
        ray.init(
            None if address == LOCAL else address,
            include_dashboard=False if address == LOCAL else None,
            log_to_driver=False,
            logging_level="ERROR",
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UnavailableError(f"--ray {address}: no cluster answers: {first_line(error)}") from None
    try:
        there = ray.cluster_resources()
        gpus, cores = int(there.get("GPU", 0)), there.get("CPU", 1.0)
        count = gpus or workers or 1
        share = {"num_gpus": 1, "num_cpus": 1} if gpus else {"num_cpus": max(1.0, cores // count)}
        yield _take(address, share, count)
    finally:
        ray.shutdown()


def _take(address: str, share: Mapping[str, float], count: int) -> list["RayPlace"]:
    try:
        return [RayPlace(share) for _ in range(count)]
    except PlaceLostError as lost:
        raise UnavailableError(f"--ray {address}: no device of the cluster becomes free: {lost}") from None


class _Keeper:
    """In the actor: objects by number."""

    def __init__(self) -> None:
        self._kept: dict[int, Any] = {}
        self._place = Place.of(Machine.here())

    def facts(self) -> tuple[Machine, Mapping[str, Any]]:
        """Return the device and the environment."""
        return self._place.machine, self._place.environment

    def run(self, function: Callable[..., Any], args: Any, more: Any) -> tuple[bool, Any]:
        """Call a function; return whether it returned, and its value or its exception."""
        return _outcome(function, args, more)

    def open(self, number: int, make: Callable[..., Any], args: Any, more: Any) -> tuple[bool, Any]:
        """Make an object."""
        returned, value = _outcome(make, args, more)
        if returned:
            self._kept[number] = value
        return returned, None if returned else value

    def call(self, number: int, name: str, args: Any, more: Any) -> tuple[bool, Any]:
        """Call a method of an object."""
        return _outcome(getattr(self._kept[number], name), args, more)


def _outcome(function: Callable[..., Any], args: Any, more: Any) -> tuple[bool, Any]:
    # An exception raised through Ray would have a remote traceback as its text.
    try:
        return True, function(*args, **more)
    except Exception as error:
        return False, error


class RayPlace(Place):
    """A device of a cluster.

    Args:
        share: resources of the cluster in Ray's form.
    """

    own_cores: ClassVar[bool] = True
    """Ray sets an actor's threads to its number of cores."""

    def __init__(self, share: Mapping[str, float]) -> None:
        self._share = share
        self._moving = threading.Lock()
        self._opened = 0
        self._start()

    def _start(self) -> None:
        """Take a free device.

        Raises:
            PlaceLostError: none becomes free.
        """
        import ray

        keeper = ray.remote(_Keeper).options(**self._share, max_concurrency=CALLS_AT_ONCE)
        self._actor: Any = keeper.remote()
        try:
            self.machine, self.environment = ray.get(self._actor.facts.remote(), timeout=START_SECONDS)
        except ray.exceptions.RayError as error:
            raise _lost(error, self._actor) from None

    def run(self, function: Callable[P, T], /, *args: P.args, **more: P.kwargs) -> T:
        """Call a function there and return what it returns."""
        return cast("T", self._ask(self._actor, "run", function, args, more))

    def open(self, make: Callable[P, T], /, *args: P.args, **more: P.kwargs) -> T:
        """Make an object there; the result forwards calls of its methods."""
        with self._moving:
            self._opened += 1
            number, actor = self._opened, self._actor
        self._ask(actor, "open", number, make, args, more)

        def call(name: str, args: Any, more: Any) -> Any:
            return self._ask(actor, "call", number, name, args, more)

        return cast("T", _Remote(call))

    def replace(self, lost: PlaceLostError) -> None:
        """Take another device, unless another thread has already replaced the same one."""
        with self._moving:
            if lost.device is self._actor:
                self._start()

    def _ask(self, actor: Any, name: str, *args: Any) -> Any:
        import ray

        try:
            returned, value = ray.get(getattr(actor, name).remote(*args))
        except ray.exceptions.RayError as error:
            # Keep the called one, because another thread may replace it meanwhile.
            raise _lost(error, actor) from None
        if not returned:
            raise value
        return value


def _lost(error: Exception, actor: Any) -> PlaceLostError:
    return PlaceLostError(first_line(error), actor)


class _Remote:
    """Stands for an object elsewhere."""

    def __init__(self, call: Callable[[str, Any, Any], Any]) -> None:
        self._call = call

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *args, **more: self._call(name, args, more)
