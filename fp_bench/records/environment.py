"""A run's environment: GPU, CPU, versions. It has no host names, user names or paths."""

import hashlib
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePath
from typing import Any

import pynvml

import fp_bench

PACKAGES = (
    "torch",
    "triton",
    "transformers",
    "flash-attn",
    "minference",
    "vllm",
    "numpy",
    "nvidia-cudnn-cu12",
    "nvidia-cudnn-cu13",
)
PACKAGE_ROOT = Path(fp_bench.__file__).parent
SOURCES = (".py", ".so", ".cu", ".cuh", ".cpp", ".h", ".pyx")
"""Endings of files on which a plug-in's results depend."""

THROTTLE_REASONS = {
    0x04: "power_cap",
    0x08: "hw_slowdown",
    0x20: "sw_thermal",
    0x40: "hw_thermal",
    0x80: "hw_power_brake",
}
"""NVML's reasons for lower clocks that distort a timing, without idling and clocks set by the user."""


class Gpu:
    """One NVIDIA GPU as the driver sees it.

    Args:
        uuid: the device's UUID without ``GPU-``. CUDA and NVML number devices differently, the UUID is the same.
    """

    def __init__(self, uuid: str) -> None:
        self._uuid = uuid
        self._handle: Any = None
        self.problem: str | None = None
        """Why nothing is known; then every fact is null."""
        try:
            pynvml.nvmlInit()
            self._handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
        except pynvml.NVMLError as error:
            self.problem = f"NVML: {error}"

    def __reduce__(self) -> tuple[type["Gpu"], tuple[str]]:
        """Pickle by UUID, because a driver's handle belongs to its process."""
        return Gpu, (self._uuid,)

    def facts(self) -> dict[str, Any]:
        """Return the facts that stay constant during a run: name, memory in bytes, driver, limits."""
        memory = self._ask(pynvml.nvmlDeviceGetMemoryInfo)
        ecc = self._ask(pynvml.nvmlDeviceGetEccMode)
        return {
            "name": self._ask(pynvml.nvmlDeviceGetName),
            "memory_bytes": memory.total if memory else None,
            "driver": _nvml(pynvml.nvmlSystemGetDriverVersion),
            "power_limit_w": _watts(self._ask(pynvml.nvmlDeviceGetEnforcedPowerLimit)),
            "max_sm_mhz": self._ask(pynvml.nvmlDeviceGetMaxClockInfo, pynvml.NVML_CLOCK_SM),
            "max_memory_mhz": self._ask(pynvml.nvmlDeviceGetMaxClockInfo, pynvml.NVML_CLOCK_MEM),
            "persistence": self._ask(pynvml.nvmlDeviceGetPersistenceMode),
            "ecc": ecc[0] if ecc else None,
        }

    def state(self, ours: Collection[int] | None = None) -> dict[str, Any]:
        """Return the facts that change: clocks in MHz, power in W, temperature in C, throttling, other processes.

        Args:
            ours: ids of our processes that use the GPU; None: only this process.
        """
        reasons = self._ask(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons)
        processes = self._ask(pynvml.nvmlDeviceGetComputeRunningProcesses)
        mine = {os.getpid()} if ours is None else set(ours)
        return {
            "sm_mhz": self._ask(pynvml.nvmlDeviceGetClockInfo, pynvml.NVML_CLOCK_SM),
            "memory_mhz": self._ask(pynvml.nvmlDeviceGetClockInfo, pynvml.NVML_CLOCK_MEM),
            "power_w": _watts(self._ask(pynvml.nvmlDeviceGetPowerUsage)),
            "temperature_c": self._ask(pynvml.nvmlDeviceGetTemperature, pynvml.NVML_TEMPERATURE_GPU),
            "throttle": None if reasons is None else [name for bit, name in THROTTLE_REASONS.items() if reasons & bit],
            "other_processes": None if processes is None else _count_others({p.pid for p in processes}, mine),
        }

    def _ask(self, question: Callable[..., Any], *args: Any) -> Any:
        return None if self._handle is None else _nvml(question, self._handle, *args)


def _nvml(question: Callable[..., Any], *args: Any) -> Any:
    try:
        return question(*args)
    except pynvml.NVMLError:  # every question may be unsupported on some GPU
        return None


def _count_others(listed: set[int], ours: set[int]) -> int:
    """Return the number of processes on the GPU that are not ours.

    In a container the driver may list the host's process ids, which we do not know; then only the count is used.
    """
    return len(listed - ours) if listed & ours else max(0, len(listed) - len(ours))


def _watts(milliwatts: int | None) -> float | None:
    return None if milliwatts is None else milliwatts / 1000


def environment(gpu: Gpu | None = None, **more: Any) -> dict[str, Any]:
    """Return the environment of a run as records refer to it.

    Args:
        gpu: the measured GPU, or None for the CPU.
        **more: facts only the caller can know, e.g. ``cuda`` or ``cpu_threads``.
    """
    return {
        "fp_bench": fp_bench.__version__,
        "code_version": code_version(),
        "git": _git_commit(),
        "python": platform.python_version(),
        "os": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_model(),
        "cpu_cores": len(os.sched_getaffinity(0)),
        "load_average": round(os.getloadavg()[0], 2),
        "packages": {name: found for name in PACKAGES if (found := installed(name))},
        "gpu": gpu.facts() if gpu else None,
        "gpu_at_start": gpu.state() if gpu else None,
        **more,
    }


def machine_name(environment: Mapping[str, Any]) -> str:
    """Return the GPU of an environment, or its CPU."""
    gpu = environment.get("gpu") or {}
    cores = f", {environment['cpu_cores']} cores" if "cpu_cores" in environment else ""
    return str(gpu.get("name") or f"{environment.get('cpu') or 'unknown machine'}{cores}")


def environment_rows(environment: Mapping[str, Any]) -> list[list[str]]:
    """Return an environment as rows of name and value, one row per nested fact, without unknown ones."""
    rows: list[list[str]] = []
    for name, value in environment.items():
        if isinstance(value, Mapping):
            rows += [[f"{name} {inner}", text] for inner, text in environment_rows(value)]
        elif value not in (None, []):
            rows.append([name.replace("_", " "), ", ".join(map(str, value)) if isinstance(value, list) else str(value)])
    return rows


def installed(package: str) -> str | None:
    """Return the version of an installed package without importing it, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def code_version(plugin: type | None = None) -> str:
    """Return the package's version and a hash of its source and included weights.

    Args:
        plugin: the class that measures; if it is outside the package, a hash of its own source follows.
    """
    found = f"{fp_bench.__version__}+{_digest((path.relative_to(PACKAGE_ROOT), path) for path in _ours())}"
    sources = {} if plugin is None else _sources(plugin)
    return f"{found}.{_digest(sorted(sources.items()))}" if sources else found


def _ours() -> Iterable[Path]:
    return sorted([*PACKAGE_ROOT.rglob("*.py"), *PACKAGE_ROOT.rglob("*.safetensors")])


def _digest(files: Iterable[tuple[PurePath, Path]]) -> str:
    """Return eight hex digits of the names and contents of files."""
    digest = hashlib.sha256()
    for name, path in files:
        digest.update(name.as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:8]


def _sources(cls: type) -> dict[PurePath, Path]:
    """Return the source files of a plug-in's class and its bases: their modules, and files next to them."""
    found: dict[PurePath, Path] = {}
    for name in {base.__module__ for base in cls.__mro__}:
        module = sys.modules.get(name)
        file = getattr(module, "__file__", None)
        if file is None or name.partition(".")[0] in {"fp_bench", "torch", "pydantic", *sys.stdlib_module_names}:
            continue
        # A module outside a package counts alone, without other files of its folder.
        folder = Path(file).parent
        paths = folder.rglob("*") if getattr(module, "__package__", "") else [Path(file)]
        found |= {PurePath(name) / path.relative_to(folder): path for path in paths if path.suffix in SOURCES}
    return found


def check_code(planned: str, plugin: type | None = None) -> None:
    """Refuse to measure with other code than that of the plan.

    Args:
        planned: the code version of the plan.
        plugin: the class that measures.

    Raises:
        RuntimeError: the source on disk changed since.
    """
    if (here := code_version(plugin)) != planned:
        raise RuntimeError(f"the code changed during the run, from {planned} to {here}")


def _git_commit() -> str | None:
    """Return the commit of the repository that tracks this package, ``-dirty`` when changed; never the caller's."""
    # Variables such as GIT_DIR would select another repository.
    ours = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}

    def git(*words: str) -> str | None:
        command = ["git", "-C", str(PACKAGE_ROOT), *words]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=10, env=ours)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if git("ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    commit = git("rev-parse", "--short=12", "HEAD")
    return f"{commit}-dirty" if commit and git("status", "--porcelain", "--", ".") else commit


def _cpu_model() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)
