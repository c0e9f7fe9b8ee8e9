"""``--devices`` and ``--ray``: where a measuring verb runs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from fp_bench.errors import UsageError

if TYPE_CHECKING:
    from fp_bench.jobs.places import Place


@contextmanager
def open_places(
    devices: Sequence[int] | None, ray: str | None, workers: int | None = None, engine: str = "hf"
) -> Iterator[Sequence["Place"]]:
    """Take the devices that were asked for, until the context ends.

    Args:
        devices: numbers of GPUs of this machine.
        ray: a cluster's address instead.
        workers: processes that will share the devices, where a job has several a device.
        engine: what will run models there.

    Raises:
        UsageError: devices that contradict each other, or the engine.
        UnavailableError: devices that are not here.
    """
    if engine != "hf" and devices is not None:
        raise UsageError(f"--engine {engine} runs on the first visible GPU; set CUDA_VISIBLE_DEVICES, not --devices")
    if ray is None:
        from fp_bench.jobs.places import places_here

        yield places_here(devices, most=workers or 1)
        return
    if devices is not None:
        given = ",".join(map(str, devices))
        raise UsageError(f"--devices {given} are GPUs of this machine, and --ray takes all of a cluster; give one")
    from fp_bench.cli.terminal import say
    from fp_bench.jobs.cluster import ray_places
    from fp_bench.records.environment import machine_name

    with ray_places(ray, workers) as places:
        say(f"ray: {len(places)} of {machine_name(places[0].environment)}")
        yield places
