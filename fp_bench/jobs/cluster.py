"""Places of a Ray cluster: one actor a GPU, or a share of the cores each where there are no GPUs.

An actor keeps the objects that a job opens there, and calls their methods. Work itself runs in worker processes that
the actor starts, as on one machine (`fp_bench.jobs.isolation`): a method that crashes ends its own process and not
the place. A place that is lost (its machine is, or its actor was killed) is told apart from that.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, ParamSpec, TypeVar, cast

from fp_bench.errors import UnavailableError, first_line
from fp_bench.jobs.isolation import START_SECONDS
from fp_bench.jobs.machine import Machine
from fp_bench.jobs.places import Here, PlaceLostError

P = ParamSpec("P")
T = TypeVar("T")

LOCAL = "local"
"""Starts Ray on this machine; any other address joins a cluster."""
CALLS_AT_ONCE = 64
"""Workers that may share a GPU, each waiting in a call."""


@contextmanager
def ray_places(address: str, workers: int | None) -> Iterator[list["RayPlace"]]:
    """Join a cluster and take a place of each of its GPUs, or one of each worker where it has none.

    Args:
        address: ``local``, ``auto`` (the cluster that this machine is part of) or ``HOST:PORT``.
        workers: places to take where there are no GPUs; None is one.

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
        self._place = Here.of(Machine.here())

    def facts(self) -> tuple[Machine, Mapping[str, Any]]:
        """Return the device and the environment."""
        return self._place.machine, self._place.environment

    def run(self, function: Callable[..., Any], args: Any, more: Any) -> tuple[bool, Any]:
        """Call a function; return whether it returned, and what, or what it raised."""
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
    # An exception that Ray carries itself arrives with a remote traceback for its text.
    try:
        return True, function(*args, **more)
    except Exception as error:
        return False, error


class RayPlace:
    """A device of a cluster; see `fp_bench.jobs.places.Place`.

    Args:
        share: of the cluster's resources, as Ray takes them.
    """

    own_cores: ClassVar[bool] = True
    """Ray has its actors use as many threads as they were given cores."""

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
        """Make an object there; what is returned passes calls of its methods on."""
        with self._moving:
            self._opened += 1
            number, actor = self._opened, self._actor
        self._ask(actor, "open", number, make, args, more)

        def call(name: str, args: Any, more: Any) -> Any:
            return self._ask(actor, "call", number, name, args, more)

        return cast("T", _Remote(call))

    def replace(self, lost: PlaceLostError) -> None:
        """Take another device, unless another thread that lost the same one has done so already."""
        with self._moving:
            if lost.device is self._actor:
                self._start()

    def _ask(self, actor: Any, name: str, *args: Any) -> Any:
        import ray

        try:
            returned, value = ray.get(getattr(actor, name).remote(*args))
        except ray.exceptions.RayError as error:
            # The one that was asked: meanwhile another thread may have replaced it.
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
