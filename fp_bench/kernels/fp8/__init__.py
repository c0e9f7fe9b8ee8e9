"""8-bit attention: keys and values rounded once, what their layout is, and the operator over a BlockIndex.

Q K^T multiplies in INT8 and P V in e4m3. Softmax amplifies errors of the logits, and 8 bits of one block carry more as
integers than with the 3 bits of mantissa of e4m3; weights, which span many powers of two, and values lose less.
Opt-in: outputs differ from exact attention by a few per cent. The lists of blocks are those of the unrounded keys.
Runs on Hopper alone (`fp8.hopper`); `fp8.reference` defines it.
"""

from torch import Tensor

from fp_bench.errors import UnavailableError, UnsupportedError
from fp_bench.kernels.attention import check_call, hopper_missing
from fp_bench.kernels.backend import resolve_backend
from fp_bench.kernels.block_index import BlockIndex
from fp_bench.kernels.fp8.layout import HEAD_DIM, Fp8KV
from fp_bench.kernels.layout import BLOCK_SIZE, check_layout, check_no_grad


def quantise_kv(k: Tensor, v: Tensor, *, backend: str = "auto") -> Fp8KV:
    """Round K, less a sample's mean, to INT8 and V to e4m3, a scale a block of 128 keys and KV head; pool K as it came.

    Defined by `fp8.reference.quantise_kv`.

    Args:
        k: ``[batch, kv_len, kv_heads, 128]``, any strides with head_dim contiguous.
        v: as ``k``.
        backend: ``auto``, ``triton`` or ``torch``; ``hopper`` runs the Triton kernel here.

    Raises:
        UnsupportedError: another head_dim, or inputs that require grad.
    """
    check_layout(k, k, v)
    check_no_grad(k, v)
    if k.shape[3] != HEAD_DIM:
        raise UnsupportedError(f"head_dim {k.shape[3]}: FP8 attention takes {HEAD_DIM}")
    if resolve_backend(k, backend) == "triton":
        from fp_bench.kernels.fp8.triton import quantise_kv_triton

        return quantise_kv_triton(k, v)
    from fp_bench.kernels.fp8 import reference as reference_fp8

    return reference_fp8.quantise_kv(k, v)


def block_sparse_attention_fp8(
    q: Tensor, k: Tensor, v: Tensor, index: BlockIndex, *, scale: float, rounded: Fp8KV | None = None
) -> Tensor:
    """Return attention over the listed blocks, with Q K^T in INT8, P V in e4m3 and the softmax in float32.

    Defined by `fp8.reference.attention`. Each query is scaled to INT8 by its own largest magnitude, inside the kernel.

    Args:
        q: ``[batch, q_len, q_heads, 128]``, float16 or bfloat16.
        k: ``[batch, kv_len, kv_heads, 128]``.
        v: as ``k``.
        index: the lists, a list a query head, blocks of 128.
        scale: factor on the logits, positive.
        rounded: `quantise_kv` of ``k`` and ``v``, if there is one already.

    Returns:
        Shape and dtype of ``q``, contiguous. There is no lse: the logits lack what the shift of the keys adds to them.

    Raises:
        UnsupportedError: tensors or an index that the kernels do not define, or inputs that require grad.
        UnavailableError: no Hopper GPU, or a call that its kernel does not take.
    """
    check_call(q, k, v, scale, (index.counts.shape[0], index.q_heads, index.q_len, index.kv_len))
    if index.packed != 1:
        raise UnsupportedError(f"{index.packed} heads share a list; FP8 attention takes a list a head")
    if (reason := fp8_missing(q, k, v, index.block_size)) is not None:
        raise UnavailableError(reason)
    from fp_bench.kernels.fp8.hopper import block_sparse_attention_fp8_hopper

    rounded = quantise_kv(k, v) if rounded is None else rounded
    return block_sparse_attention_fp8_hopper(q, rounded, index, scale)


def fp8_missing(q: Tensor, k: Tensor, v: Tensor, block_size: int = BLOCK_SIZE) -> str | None:
    """Return why FP8 attention cannot compute a call here, or None."""
    if not q.is_cuda:
        return f"FP8 attention runs on Hopper GPUs (compute capability 9.0); the tensors are on {q.device}"
    if q.shape[3] != HEAD_DIM:
        return f"FP8 attention takes head_dim {HEAD_DIM}, not {q.shape[3]}"
    if (reason := hopper_missing(q, k, v, block_size)) is not None:
        return f"FP8 attention: {reason}"
    from fp_bench.kernels.fp8.hopper import self_test

    return self_test(q.device)
