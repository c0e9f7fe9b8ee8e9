"""The entry point that vLLM calls in each of its processes; it registers sparse prefill as backend CUSTOM.

It patches nothing; without ``--attention-backend CUSTOM`` vLLM runs as if this were not installed.
"""

import warnings
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

BACKEND = "fp_bench.models.vllm_backend.SparsePrefillBackend"


@dataclass(frozen=True)
class Interface:
    """What differs between the supported versions of vLLM; the backend inherits the rest from FlashAttention's.

    In all of them a layer sees its pages as ``[pages, kv_heads, slots, 2 * head_dim]``, K and then V in the last
    dimension, with any strides.
    """

    ranges: str
    """The field of FlashAttention's metadata with a prompt's bidirectional ranges; None there if it is causal."""
    layouts: str
    """Who declares the strides of pages: the ``backend`` by its calls, or the ``engine`` by its ``KVCacheLayout``."""
    page_sizes: str
    """Whom vLLM asks for page sizes: a ``backend`` as a whole, or for each ``spec`` of a layer's cache."""


VERSIONS = {
    "0.26": Interface("mm_prefix_range_tensor", "backend", "backend"),
    "0.27": Interface("mm_prefix_range_tensor", "backend", "backend"),
    "0.28": Interface("mm_prefix_query_range_tensor", "backend", "backend"),
    "0.29": Interface("mm_prefix_query_range_tensor", "engine", "backend"),
    "0.30": Interface("mm_prefix_query_range_tensor", "engine", "backend"),
    "0.31": Interface("mm_prefix_query_range_tensor", "engine", "backend"),
    "0.32": Interface("mm_prefix_query_range_tensor", "engine", "spec"),
    "0.33": Interface("mm_prefix_query_range_tensor", "engine", "spec"),
}
"""The supported versions. ``python -m tests.soak.vllm_backend`` checks a row inside that version's Python package."""


def vllm_version() -> str:
    """Return the installed vLLM's version without its patch level, e.g. ``0.33``.

    Raises:
        PackageNotFoundError: vLLM is not installed.
    """
    return ".".join(version("vllm").split(".")[:2])


def vllm_problem() -> str | None:
    """Return why the backend does not fit the installed vLLM, or None."""
    first, *_, last = VERSIONS
    try:
        if vllm_version() in VERSIONS:
            return None
    except PackageNotFoundError:
        return f"vLLM is not installed; pip install 'vllm=={last}.*'"
    return f"vLLM {version('vllm')} is not one of the supported versions, {first} to {last}"


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
