"""FlashPrefill as a fast operator, and an honest benchmark of sparse-prefill attention.

``from fp_bench import flash_prefill`` is the operator alone, ``flash_prefill_paged`` the same over an engine's
pages; the command ``fpbench`` is the benchmark.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["PagedBatch", "__version__", "flash_prefill", "flash_prefill_paged"]

if TYPE_CHECKING:
    from fp_bench.kernels.flashprefill.prefill import flash_prefill
    from fp_bench.kernels.paged import flash_prefill_paged
    from fp_bench.kernels.paged.batch import PagedBatch

_LAZY = {
    "PagedBatch": "fp_bench.kernels.paged.batch",
    "flash_prefill": "fp_bench.kernels.flashprefill.prefill",
    "flash_prefill_paged": "fp_bench.kernels.paged",
}


def __getattr__(name: str) -> Any:
    # Lazy, so that `fpbench --help` and `fpbench compare` never import torch.
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
