"""FlashAttention-2's online softmax, with which every attention kernel in portable Triton adds its tiles."""

import triton
import triton.language as tl


@triton.jit
def matters(logits, highest, rows, scale_log2, log2_skip):
    """Whether a tile's largest logit comes near the running maximum in one of ``rows``, base 2 (skip-softmax)."""
    ahead = tl.max(logits, 1) * scale_log2 - highest
    return tl.max(tl.where(rows, ahead, float("-inf")), 0) >= log2_skip


@triton.jit
def fold(acc, denominator, highest, logits, v, scale_log2):
    """Fold one tile of unscaled logits and its values into the running softmax, base 2."""
    new_highest = tl.maximum(highest, tl.max(logits, 1) * scale_log2)
    weights = tl.exp2(logits * scale_log2 - new_highest[:, None])
    shrink = tl.exp2(highest - new_highest)
    denominator = denominator * shrink + tl.sum(weights, 1)
    acc = tl.dot(weights.to(v.dtype), v, acc * shrink[:, None], input_precision="ieee")
    return acc, denominator, new_highest
