"""The places of consecutive keys in the pages, for all paged kernels."""

import triton
import triton.language as tl


@triton.jit
def page_numbers(table_ptr, start, lane, kv_len, PAGE: tl.constexpr, TILE: tl.constexpr):
    """Return the pages of keys ``start + lane``: one number where a page holds the whole tile, else one a key.

    ``table_ptr`` is the sequence's row; ``start`` a multiple of ``TILE``. Keys past the end get page 0, unread.
    """
    if TILE <= PAGE:
        page = tl.load(table_ptr + start // PAGE, mask=start < kv_len, other=0)
    else:
        page = tl.load(table_ptr + (start + lane) // PAGE, mask=start + lane < kv_len, other=0)
    return page


@triton.jit
def key_offsets(page, start, lane, stride_page, stride_slot, PAGE: tl.constexpr):
    """Return the offsets ``[TILE]`` of keys ``start + lane`` from one head's first key; ``page`` as above."""
    slot = (start + lane) % PAGE
    return page.to(tl.int64) * stride_page + slot.to(tl.int64) * stride_slot
