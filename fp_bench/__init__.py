"""FlashPrefill as a fast operator, and an honest benchmark of sparse-prefill attention.

``from fp_bench import flash_prefill`` is the operator alone; the command ``fpbench`` is the benchmark.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["__version__", "flash_prefill"]

if TYPE_CHECKING:
    from fp_bench.kernels.prefill import flash_prefill


def __getattr__(name: str) -> Any:
    # Lazy, so that `fpbench --help` and `fpbench compare` never import torch.
    if name == "flash_prefill":
        from fp_bench.kernels.prefill import flash_prefill

        return flash_prefill
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
