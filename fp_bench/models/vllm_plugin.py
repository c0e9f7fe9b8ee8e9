"""The entry point that vLLM calls in each of its processes; it registers sparse prefill as backend CUSTOM.

It patches nothing; without ``--attention-backend CUSTOM`` vLLM runs as if this were not installed.
"""

import warnings
from importlib.metadata import PackageNotFoundError, version

SUPPORTED = ("0.26",)
"""Versions whose page layout and interfaces the backend supports."""
BACKEND = "fp_bench.models.vllm_backend.SparsePrefillBackend"


def vllm_problem() -> str | None:
    """Return why the backend does not fit the installed vLLM, or None."""
    try:
        installed = version("vllm")
    except PackageNotFoundError:
        return "vLLM is not installed; pip install 'vllm==0.26.*'"
    if ".".join(installed.split(".")[:2]) in SUPPORTED:
        return None
    return f"vLLM {installed} is not one of the supported versions, {', '.join(SUPPORTED)}.*"


def register() -> None:
    """Register the backend by name; it is imported when it is selected.

    A reason against it is a warning, because an error would stop a vLLM that does not use this backend.
    """
    if (problem := vllm_problem()) is not None:
        warnings.warn(f"fp_bench's attention backend is not registered: {problem}", stacklevel=2)
        return
    from vllm.v1.attention.backends.registry import AttentionBackendEnum, register_backend

    custom = AttentionBackendEnum.CUSTOM
    if custom.is_overridden() and (other := custom.get_path()) != BACKEND:
        warnings.warn(
            f"fp_bench's attention backend is not registered: CUSTOM is {other}; set VLLM_PLUGINS=fp_bench",
            stacklevel=2,
        )
        return
    register_backend(custom, BACKEND)
