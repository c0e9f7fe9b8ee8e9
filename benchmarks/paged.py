"""What pages cost: ``python -m benchmarks.paged --out RUN``, on a GPU, under 90 seconds.

The paged operator beside the unpaged one on the same queries, keys and values: whole prompts, the last chunk of a long
prompt, and four prompts in one batch (the unpaged operator then runs once a prompt). Pages are shuffled; K and V share
one tensor with heads inside slots, as vLLM has them. ``triton`` is the unpaged operator by the same portable
kernels, ``auto`` by the fastest there is. Structured inputs, 32/8/128, bf16; median of samples with a cold cache.
"""

from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from benchmarks.bench import Rows, milliseconds, relative_error, structured_call
from fp_bench.inputs.source import Shape
from fp_bench.jobs.latency.timers import CudaEvents
from fp_bench.kernels.paged import flash_prefill_paged
from fp_bench.kernels.paged.batch import PagedBatch
from fp_bench.methods.base import AttentionCall
from fp_bench.methods.flashprefill import FlashPrefill

Q_HEADS, KV_HEADS, HEAD_DIM = 32, 8, 128
SCALE = HEAD_DIM**-0.5
CHUNK = 8192
PAGE_SIZES = (16, 32, 64, 128)
CASES = {
    "8k": [(8192, 8192)],
    "32k": [(32768, 32768)],
    "128k": [(131072, 131072)],
    "last 8k of 128k": [(CHUNK, 131072)],
    "4 x 8k": [(8192, 8192)] * 4,
}
"""Queries and keys of each sequence."""
SAMPLES = 12
BACKENDS = ("triton", "auto")
FIGURES = ("triton_ms", "auto_ms", "paged_triton_ms", "paged_ms", "to_triton", "to_auto")


@dataclass(frozen=True)
class Paged:
    """One batch over pages."""

    q: Tensor
    k: Tensor
    v: Tensor
    batch: PagedBatch

    out: Tensor

    def __call__(self, method: FlashPrefill) -> Tensor:
        """Run the paged operator as an engine does, into a tensor that is there."""
        params = method.params
        return flash_prefill_paged(
            self.q,
            self.k,
            self.v,
            self.batch,
            alpha=params.alpha,
            sink_blocks=params.sink_blocks,
            window_blocks=params.window_blocks,
            last_full_blocks=params.last_full_blocks,
            scale=SCALE,
            out=self.out,
            backend=method.backend,
        )


def calls(sizes: list[tuple[int, int]]) -> list[AttentionCall]:
    """Return each sequence as a call of its own."""
    device = torch.device("cuda")
    found = []
    for seed, (q_len, kv_len) in enumerate(sizes):
        whole = structured_call(Shape(1, kv_len, Q_HEADS, KV_HEADS, HEAD_DIM), device, seed=seed)
        found.append(replace(whole, q=whole.q[:, kv_len - q_len :]))
    return found


def paged(sequences: list[AttentionCall], page: int) -> Paged:
    """Lay sequences out in shuffled pages."""
    needed = [-(-call.kv_len // page) for call in sequences]
    cache = torch.zeros((sum(needed), page, KV_HEADS, 2 * HEAD_DIM), dtype=torch.bfloat16, device="cuda")
    order = torch.randperm(sum(needed), generator=torch.Generator().manual_seed(0)).to("cuda")
    table = torch.zeros((len(sequences), max(needed)), dtype=torch.int32, device="cuda")
    for s, (call, own) in enumerate(zip(sequences, torch.split(order, needed), strict=True)):
        table[s, : len(own)] = own
        both = torch.cat([call.k[0], call.v[0]], dim=-1)
        padding = len(own) * page - call.kv_len
        cache[own] = torch.nn.functional.pad(both, (0, 0, 0, 0, 0, padding)).view(len(own), page, KV_HEADS, -1)
    lens = torch.tensor([0, *(call.q_len for call in sequences)]).cumsum(0).int()
    batch = PagedBatch(
        lens.cuda(), torch.tensor([call.kv_len for call in sequences], dtype=torch.int32, device="cuda"), table,
        tokens=int(lens[-1]), max_q_len=max(call.q_len for call in sequences),
        max_kv_len=max(call.kv_len for call in sequences),
    )  # fmt: skip
    q = torch.cat([call.q[0] for call in sequences])
    return Paged(q, cache[..., :HEAD_DIM], cache[..., HEAD_DIM:], batch, torch.empty_like(q))


def one_by_one(method: FlashPrefill, sequences: list[AttentionCall]) -> Tensor:
    """Run the unpaged operator once a sequence; return the outputs one after the other."""
    return torch.cat([method(call)[0] for call in sequences]) if len(sequences) > 1 else method(sequences[0])[0]


def main() -> None:
    """Write one row a case and page size."""
    rows, timer = Rows.asked("paged"), CudaEvents(torch.device("cuda"))
    methods = {backend: FlashPrefill(backend=backend) for backend in BACKENDS}
    for name, sizes in CASES.items():
        sequences = calls(sizes)
        unpaged = [milliseconds(partial(one_by_one, method, sequences), timer, SAMPLES) for method in methods.values()]
        expected = one_by_one(methods["triton"], sequences).float()

        def figures(
            page: int, sequences: list[AttentionCall], unpaged: list[float], expected: Tensor
        ) -> dict[str, float]:
            ours = paged(sequences, page)
            times = [milliseconds(partial(ours, methods[backend]), timer, SAMPLES) for backend in BACKENDS]
            ratios = [time / base for time, base in zip(times, unpaged, strict=True)]
            found = dict(zip(FIGURES, (*unpaged, *times, *ratios), strict=True))
            return found | {"rel_err": relative_error(ours(methods["auto"]), expected)}

        for page in PAGE_SIZES:
            made = partial(figures, page, sequences, unpaged, expected)
            rows.row("flash_prefill_paged", max(kv for _, kv in sizes), made, batch=name, page=page)


if __name__ == "__main__":
    main()
