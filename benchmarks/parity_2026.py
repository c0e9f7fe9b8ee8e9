"""The selections of Prism, Stem, CoSA and SpargeAttn against the official code: what both keep.

``python -m benchmarks.parity_2026 --official-prism PATH --official-stem PATH --official-cosa PATH --lens 16k``

Paths are plain checkouts of xinghaow99/prism, Tencent/AngelSlim (Stem and CoSA) and thu-ml/SpargeAttn
(``--official-spargeattn``); one that is not given is left out. As `benchmarks.parity`: nothing of theirs is in this
tree, each row is written the moment it exists, and on a CPU their kernels run in Triton's interpreter, in float32.
"""

import argparse
import contextlib
import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.bench import Bench, Rows
from benchmarks.official import BLOCK, _load, _stub
from benchmarks.parity import compared
from fp_bench.methods.base import AttentionCall
from fp_bench.methods.registry import Spec
from fp_bench.methods.xattention import official_first_chunk
from fp_bench.sizes import parse_lengths


def heads_first(call: AttentionCall) -> tuple[Tensor, Tensor, Tensor]:
    """Return Q, K and V as the official code takes them: heads first, K and V repeated."""
    group = call.q_heads // call.kv_heads
    q, k, v = call.q, call.k.repeat_interleave(group, 2), call.v.repeat_interleave(group, 2)
    return tuple(tensor.transpose(1, 2).contiguous() for tensor in (q, k, v))  # type: ignore[return-value]


class OfficialPrism:
    """xinghaow99/prism."""

    def __init__(self, checkout: Path) -> None:
        sys.path.insert(0, str(checkout))
        self._module = importlib.import_module("prism.prism")

    def mask(self, call: AttentionCall, mass: float) -> Tensor:
        """Return the official mask, of tensors padded as its caller pads them."""
        q, k, _ = (F.pad(tensor, (0, 0, 0, -tensor.shape[2] % BLOCK)) for tensor in heads_first(call))
        mask: Tensor = self._module.prism_block_estimate(q, k, low_freq_threshold=mass, high_freq_threshold=mass)
        return mask


class OfficialStem:
    """Tencent/AngelSlim's Stem, at the settings of its published configuration."""

    SETTINGS = {"block_size": BLOCK, "stride": 8, "stem_alpha": 0.7, "initial_blocks": 4, "window_size": 4}  # noqa: RUF012

    def __init__(self, checkout: Path) -> None:
        root = checkout / "angelslim/compressor/sparsity/algorithms/stem"
        # The packages around the one file have other needs.
        for name, folder in (("stem", root), ("stem.backends", root / "backends"), ("stem.ops", root / "ops")):
            sys.modules[name] = ModuleType(name)
            sys.modules[name].__path__ = [str(folder)]
        self._module: Any = importlib.import_module("stem.backends.torch_impl")

    def mask(self, call: AttentionCall) -> Tensor:
        """Return the mask that the official code hands to its attention, a CUDA package that is not needed here."""
        found: list[Tensor] = []

        def caught(*operands: object, **_options: object) -> Tensor:
            found.extend(mask for mask in operands if isinstance(mask, Tensor) and mask.dtype == torch.bool)
            raise StopIteration

        self._module.HAS_BLOCK_SPARSE_KERNEL, self._module.block_sparse_attn_func = True, caught
        waiting = contextlib.nullcontext() if call.q.is_cuda else mock.patch("torch.cuda.synchronize")
        # Layer 2 is the first that is not dense.
        layer = {"attn_forward_config": self.SETTINGS, "layer_idx": 2}
        with contextlib.suppress(StopIteration), waiting:
            self._module.stem_forward_torch(*heads_first(call), layer)
        return found[0]


class OfficialCosa:
    """Tencent/AngelSlim's CoSA: the lists that it hands to its attention, whose skip-softmax is not part of them."""

    def __init__(self, checkout: Path) -> None:
        file = checkout / "angelslim/compressor/sparsity/algorithms/cosa/ops/proxy.py"
        self._module: Any = _load("official_cosa", file)

    def mask(self, call: AttentionCall, coverage: float) -> Tensor:
        """Return the official lists as a mask."""
        q, k, _ = heads_first(call)
        chunk = official_first_chunk(call.kv_len)
        _, ids = self._module.cosa_estimate(q, k, BLOCK, 8, topp=coverage, chunk_size=chunk)
        mask = torch.zeros((*ids.shape[:3], ids.shape[3] + 1), dtype=torch.bool, device=ids.device)
        return mask.scatter_(3, ids.long() % mask.shape[3], True)[..., :-1]


class OfficialSpargeAttn:
    """thu-ml/SpargeAttn, at blocks of 128 by 128, which its own attention does not take."""

    def __init__(self, checkout: Path) -> None:
        _stub("einops", rearrange=None, repeat=None)
        self._module: Any = _load("official_spargeattn", checkout / "spas_sage_attn/utils.py")

    def mask(self, call: AttentionCall, **settings: float | None) -> Tensor:
        """Return the official mask, keys centred as `spas_sage2_attn_meansim_cuda` centres them."""
        q, k, _ = heads_first(call)
        found = self._module.get_block_map_meansim_fuse_quant(
            q, k, k.mean(dim=-2, keepdim=True), is_causal=True, BLKQ=BLOCK, BLKK=BLOCK, **settings
        )
        mask: Tensor = found[0].bool()
        return mask


def rows(bench: Bench, options: argparse.Namespace, call: AttentionCall) -> None:
    """Write a row for each method whose checkout is given."""
    none = torch.zeros((), dtype=torch.bool, device=bench.device)
    blocks = -(-call.kv_len // BLOCK)
    ends = torch.eye(blocks, dtype=torch.bool, device=bench.device)
    ends[:, 0] = True
    number = torch.arange(blocks, device=bench.device)
    band = (number < 4) | (number[:, None] - number < 4)
    if options.official_prism:
        official = OfficialPrism(options.official_prism)
        for mass in (0.6, 0.95):
            spec = Spec("prism", {"mass": str(mass)})
            bench.row(
                "parity", call.kv_len, str(spec), lambda s=spec, m=mass: compared(call, s, official.mask(call, m), ends)
            )
    if options.official_stem:
        stem = OfficialStem(options.official_stem)
        bench.row("parity", call.kv_len, "stem", lambda: compared(call, Spec("stem", {}), stem.mask(call), band))
    if options.official_cosa:
        cosa = OfficialCosa(options.official_cosa)
        for coverage in (0.8, 0.95):
            spec = Spec("cosa", {"coverage": str(coverage)})
            bench.row(
                "parity", call.kv_len, str(spec), lambda s=spec, c=coverage: compared(call, s, cosa.mask(call, c), ends)
            )
    if options.official_spargeattn:
        sparge = OfficialSpargeAttn(options.official_spargeattn)
        for spec, given in (
            (Spec("spargeattn", {"similarity": "0.3"}), {"simthreshd1": 0.3, "cdfthreshd": 0.98}),
            (Spec("spargeattn", {"similarity": "-0.1", "mass": "0.9"}), {"simthreshd1": -0.1, "cdfthreshd": 0.9}),
            (Spec("spargeattn", {"preset": "plug-and-play"}), {"simthreshd1": -0.1, "cdfthreshd": None, "topk": 0.5}),
        ):
            bench.row(
                "parity", call.kv_len, str(spec),
                lambda s=spec, g=given: compared(call, s, sparge.mask(call, **g), none),
            )  # fmt: skip


def main() -> None:
    """Compare at each length."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.parity_2026", description=__doc__)
    parser.add_argument("--official-prism", type=Path, metavar="PATH")
    parser.add_argument("--official-stem", type=Path, metavar="PATH")
    parser.add_argument("--official-cosa", type=Path, metavar="PATH")
    parser.add_argument("--official-spargeattn", type=Path, metavar="PATH")
    parser.add_argument("--lens", default="16k,64k", help="lengths to compare at")
    parser.add_argument("--shape", default="32/8/128", help="q_heads/kv_heads/head_dim")
    parser.add_argument("--out", type=Path, default=Path("runs/parity-2026"))
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    q_heads, kv_heads, head_dim = map(int, options.shape.split("/"))
    # Triton's interpreter computes nothing right in bfloat16.
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    bench = Bench((q_heads, kv_heads, head_dim), dtype, device, Rows("parity_2026", device, options.out))
    with torch.no_grad():
        for length in parse_lengths(options.lens):
            rows(bench, options, bench.call(length))


if __name__ == "__main__":
    main()
