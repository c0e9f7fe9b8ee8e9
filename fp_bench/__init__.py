"""FlashPrefill as a fast operator, and an honest benchmark of sparse-prefill attention.

``from fp_bench import flash_prefill`` is the operator, ``flash_prefill_paged`` the same over an engine's pages.
``SparsePrefill`` puts a method into a Hugging Face model. The other names serve your own methods and
suites. The command ``fpbench`` is the benchmark.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"
__all__ = [
    "AttentionCall",
    "BlockIndex",
    "BlockMethod",
    "BlockParams",
    "FlashPrefill",
    "Knob",
    "Method",
    "MethodParams",
    "PagedBatch",
    "Sample",
    "SparsePrefill",
    "Suite",
    "SuiteParams",
    "Tokenizer",
    "UnavailableError",
    "UsageError",
    "__version__",
    "flash_prefill",
    "flash_prefill_paged",
]

if TYPE_CHECKING:
    from fp_bench.errors import UnavailableError, UsageError
    from fp_bench.kernels.block_index import BlockIndex
    from fp_bench.kernels.flashprefill.prefill import flash_prefill
    from fp_bench.kernels.paged import flash_prefill_paged
    from fp_bench.kernels.paged.batch import PagedBatch
    from fp_bench.methods.base import AttentionCall, Knob, Method, MethodParams
    from fp_bench.methods.blocks import BlockMethod, BlockParams
    from fp_bench.methods.flashprefill import FlashPrefill
    from fp_bench.models.attention import SparsePrefill
    from fp_bench.suites.sample import Sample
    from fp_bench.suites.suite import Suite, SuiteParams, Tokenizer

_LAZY = {
    "AttentionCall": "fp_bench.methods.base",
    "BlockIndex": "fp_bench.kernels.block_index",
    "BlockMethod": "fp_bench.methods.blocks",
    "BlockParams": "fp_bench.methods.blocks",
    "FlashPrefill": "fp_bench.methods.flashprefill",
    "Knob": "fp_bench.methods.base",
    "Method": "fp_bench.methods.base",
    "MethodParams": "fp_bench.methods.base",
    "PagedBatch": "fp_bench.kernels.paged.batch",
    "Sample": "fp_bench.suites.sample",
    "SparsePrefill": "fp_bench.models.attention",
    "Suite": "fp_bench.suites.suite",
    "SuiteParams": "fp_bench.suites.suite",
    "Tokenizer": "fp_bench.suites.suite",
    "UnavailableError": "fp_bench.errors",
    "UsageError": "fp_bench.errors",
    "flash_prefill": "fp_bench.kernels.flashprefill.prefill",
    "flash_prefill_paged": "fp_bench.kernels.paged",
}


def __getattr__(name: str) -> Any:
    # Lazy, so that `fpbench --help` and `fpbench compare` never import torch.
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
