"""Random packed batches over shuffled pages, and the sequences that they hold without pages."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fp_bench.kernels.paged.batch import PagedBatch
from fp_bench.kernels.paged.discovery_triton import PagedLists
from tests.kernels.calls import Case


@dataclass(frozen=True)
class Sequence:
    """One sequence as a call of its own."""

    q: Tensor
    k: Tensor
    v: Tensor
    last_chunk: bool


@dataclass(frozen=True)
class PagedCall:
    q: Tensor
    k: Tensor
    v: Tensor
    batch: PagedBatch
    sequences: list[Sequence]

    @property
    def scale(self) -> float:
        return self.q.shape[2] ** -0.5


def spread(sequences: list[Sequence], page_size: int, seed: int = 0, layout: str = "packed", device="cpu") -> PagedCall:
    """Lay sequences out in shuffled pages among others, with rows of no sequence around q. Unused slots hold nan.

    Args:
        sequences: queries are the last of their keys; ``q_len`` 0 is allowed.
        page_size: tokens of a page.
        seed: of the order of pages.
        layout: ``apart`` (two tensors), ``packed`` (K and V in one last dimension, heads outside slots, as vLLM has
            them), ``stacked`` (one tensor, K before V in each page).
        device: of all tensors.
    """
    _, _, heads, dim = sequences[0].k.shape
    dtype = sequences[0].k.dtype
    needed = [-(-s.k.shape[1] // page_size) for s in sequences]
    count = sum(needed) + 3
    shape = {
        "apart": (2, count, page_size, heads, dim),
        "packed": (count, heads, page_size, 2 * dim),
        "stacked": (count, 2, page_size, heads, dim),
    }[layout]
    cache = torch.full(shape, float("nan"), dtype=dtype)
    if layout == "apart":
        k, v = cache
    elif layout == "packed":
        k, v = cache.transpose(1, 2).split(dim, dim=-1)
    else:
        k, v = cache.unbind(1)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    table = torch.full((len(sequences), max(needed) + 2), 2**30, dtype=torch.int32)
    for s, sequence in enumerate(sequences):
        for page in range(needed[s]):
            table[s, page] = place = order.pop()
            tokens = slice(page * page_size, (page + 1) * page_size)
            for cache_part, values in ((k, sequence.k), (v, sequence.v)):
                part = values[0, tokens]
                cache_part[place, : len(part)] = part
    before, after = 3, 2
    q = torch.cat([sequence.q[0] for sequence in sequences])
    q = torch.nn.functional.pad(q, (0, 0, 0, 0, before, after))
    lens = torch.tensor([0, *(sequence.q.shape[1] for sequence in sequences)])
    batch = PagedBatch(
        (before + lens.cumsum(0)).int().to(device),
        torch.tensor([sequence.k.shape[1] for sequence in sequences], dtype=torch.int32, device=device),
        table.to(device),
        tokens=max(int(lens.sum()), 1),
        max_q_len=max(int(lens.max()), 1),
        max_kv_len=max(sequence.k.shape[1] for sequence in sequences),
        last_chunk=torch.tensor([sequence.last_chunk for sequence in sequences], device=device),
    )
    # One storage goes to the device, so that K and V stay views of it.
    cache_there = cache.to(device)
    if layout == "apart":
        k, v = cache_there
    elif layout == "packed":
        k, v = cache_there.transpose(1, 2).split(dim, dim=-1)
    else:
        k, v = cache_there.unbind(1)
    return PagedCall(q.to(device), k, v, batch, sequences)


def random_lists(batch: PagedBatch, q_heads: int, share: float, seed: int = 0) -> PagedLists:
    """Keep each block that a tile sees with a chance of ``share``: some lists are empty, some without the diagonal."""
    draw = torch.Generator(batch.kv_lens.device).manual_seed(seed)
    block = batch.tiles.block
    score = torch.rand((len(block), q_heads, batch.key_blocks), generator=draw, device=block.device)
    seen = torch.arange(batch.key_blocks, device=block.device) <= block[:, None, None]
    keep = (score < share) & seen
    order = keep.int().sort(dim=-1, descending=True, stable=True).indices
    return PagedLists(order.to(torch.int16), keep.sum(-1).int())


def random_call(
    seed: int, *, max_len: int = 600, max_sequences: int = 4, head_dims=(64,), dtype=torch.float32, device="cpu"
) -> PagedCall:
    """Draw a batch: whole prompts, chunks, cached prefixes, decodes, sequences without queries."""
    draw = torch.Generator().manual_seed(seed)

    def pick(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=draw))

    kv_heads = pick(1, 2)
    q_heads, head_dim = kv_heads * pick(1, 3), head_dims[pick(0, len(head_dims) - 1)]
    sequences = []
    for number in range(pick(1, max_sequences)):
        kv_len = pick(1, max_len)
        q_len = (kv_len, pick(1, kv_len), 1, 0, max(kv_len % 128, 1))[pick(0, 4)]
        case = Case(1, q_len, kv_len, q_heads, kv_heads, head_dim, dtype, seed=seed * 10 + number)
        sequences.append(Sequence(*case.tensors(), last_chunk=bool(pick(0, 1))))
    layout = ("apart", "packed", "stacked")[pick(0, 2)]
    return spread(sequences, (16, 32, 64, 128, 256)[pick(0, 4)], seed, layout, device)
