"""The entry point that vLLM calls in each of its processes: it makes sparse prefill selectable as backend CUSTOM.

Nothing of vLLM is patched or replaced; without ``--attention-backend CUSTOM`` it runs as if this were not installed.
"""

import warnings
from importlib.metadata import PackageNotFoundError, version

SUPPORTED = ("0.26",)
"""Versions whose page layout and interfaces the backend was written for."""
BACKEND = "fp_bench.models.vllm_backend.SparsePrefillBackend"


def vllm_problem() -> str | None:
    """Return why the backend does not fit the vLLM that is installed, or None."""
    try:
        installed = version("vllm")
    except PackageNotFoundError:
        return "vLLM is not installed; pip install 'vllm==0.26.*'"
    if ".".join(installed.split(".")[:2]) in SUPPORTED:
        return None
    return f"vLLM {installed} is not one of the supported versions, {', '.join(SUPPORTED)}.*"


def register() -> None:
    """Register the backend, by name: it is imported when it is selected.

    A reason not to is a warning, since an error here would stop a vLLM that was not even asked for this backend.
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
