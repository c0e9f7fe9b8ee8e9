"""Attention of a prompt's last queries, by key and by distance; FlexPrefill and MInference select with it."""

from torch import Tensor

from fp_bench.kernels.backend import resolve_backend


def last_attention(last: Tensor, k: Tensor, factor: float, *, rounded: bool = False, backend: str = "auto") -> Tensor:
    """Return ``[2, batch, q_heads, length]`` float32: the mean mass on each key, and on each distance.

    Defined by `last_reference.last_attention`. Entry c of the second vector is the mass on the key ``kv_len - 1 - c``
    tokens before the query. ``length`` is ``kv_len`` rounded up to a multiple of the number of queries; entries past
    ``kv_len`` are zero.

    Args:
        last: ``[batch, rows, q_heads, head_dim]``, the last queries: at least 16 and a power of 2 for Triton.
        k: ``[batch, kv_len, kv_heads, head_dim]``, at least as many keys as rows.
        factor: on the products.
        rounded: round the products to K's dtype.
        backend: ``auto``, ``triton`` or ``torch``; ``hopper`` runs the Triton kernels here.
    """
    if resolve_backend(last, backend) == "triton":
        from fp_bench.kernels.attention.last_triton import last_attention_triton as compute
    else:
        from fp_bench.kernels.attention.last_torch import last_attention_torch as compute
    return compute(last, k, factor, rounded)
