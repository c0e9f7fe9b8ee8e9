"""One set of Gluon's names for Triton 3.6 to 3.9, whose own names differ; the kernels use only this set."""

from triton.experimental.gluon._runtime import GluonASTSource
from triton.experimental.gluon.language.nvidia.hopper import tma

__all__ = ["GluonASTSource", "tma_load", "tma_store"]

# 3.8 renamed both; 3.9 still has the old names, but they raise.
tma_load = tma.async_load if hasattr(tma, "async_load") else tma.async_copy_global_to_shared
tma_store = tma.async_store if hasattr(tma, "async_store") else tma.async_copy_shared_to_global
