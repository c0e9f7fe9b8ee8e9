"""Watches disturbances of a timing: clocks, power, temperature, throttling and other processes."""

import os
from collections.abc import Collection, Sequence
from statistics import median
from typing import Any

from fp_bench.records.environment import Gpu


class Watch:
    """Collects states of the GPU during one round.

    Args:
        gpu: the timed GPU; None for the CPU.
        ours: ids of our processes that use it.
    """

    def __init__(self, gpu: Gpu | None, ours: Collection[int]) -> None:
        self._gpu = gpu
        self._ours = ours
        self._states: list[dict[str, Any]] = []

    def tick(self) -> None:
        """Look once."""
        if self._gpu is not None:
            self._states.append(self._gpu.state(self._ours))

    def fields(self) -> dict[str, Any]:
        """Return the record fields of the round that ends now."""
        load = {"load_average": round(os.getloadavg()[0], 2)}
        if self._gpu is None:
            return load
        if self._gpu.problem:
            return load | {"gpu": {"reason": self._gpu.problem}}
        self._states = self._states or [self._gpu.state(self._ours)]
        throttle = [state["throttle"] for state in self._states if state["throttle"] is not None]
        return load | {"gpu": summary(self._states), "throttled": any(throttle) if throttle else None}


def summary(states: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return a summary of one round's states; a fact that the driver does not give is null.

    ``sm_mhz`` and ``memory_mhz`` have min, median and max; ``power_w`` and ``temperature_c`` are the highest;
    ``throttle`` is the share of the states in which each reason held the clocks down; ``other_processes`` is the most
    on the GPU that are not ours; ``states`` is the number of states.
    """
    known = {name: [state[name] for state in states if state[name] is not None] for name in states[0]}
    reasons = sorted({reason for state in known["throttle"] for reason in state})

    def spread(name: str) -> dict[str, float] | None:
        values = known[name]
        return {"min": min(values), "median": median(values), "max": max(values)} if values else None

    return {
        "states": len(states),
        "sm_mhz": spread("sm_mhz"),
        "memory_mhz": spread("memory_mhz"),
        "power_w": max(known["power_w"], default=None),
        "temperature_c": max(known["temperature_c"], default=None),
        "throttle": {
            reason: round(sum(reason in state for state in known["throttle"]) / len(known["throttle"]), 3)
            for reason in reasons
        }
        if known["throttle"]
        else None,
        "other_processes": max(known["other_processes"], default=None),
    }
