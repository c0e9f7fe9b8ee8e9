"""Compile the kernels of the methods of 2026 for a chip that is not here; run as a process, as `tests.kernels.aot`."""

import json
import sys

from tests.kernels.aot import compile_kernel, signature


def kernels(head_dim: int, capability: int):
    """Return name, kernel, constants and what its arguments' types are beyond `signature`'s."""
    from fp_bench.kernels.attention.triton import ROW_GROUP, _block_sparse_kernel
    from fp_bench.kernels.attention.triton import launch_config as attention_config
    from fp_bench.kernels.delta.triton import _rows_kernel
    from fp_bench.kernels.flashprefill.triton import COMPACT_TILE, launch_config
    from fp_bench.kernels.pooling.cells_triton import _cells_kernel
    from fp_bench.kernels.pooling.likeness_triton import _likeness_kernel
    from fp_bench.kernels.pooling.radii_triton import _radii_kernel
    from fp_bench.kernels.ranking.triton import _best_kernel
    from fp_bench.kernels.rbs.triton import _rescue_kernel
    from fp_bench.kernels.xattention import triton as antidiagonal

    block = {"BLOCK": 128, "HEAD_DIM": head_dim}
    warps = 8 if head_dim == 256 else 4
    best = {"BANDS": 2, "WIDTH": 2048, "num_warps": 4}
    scores = {"scores_ptr": "*fp32", "need_ptr": "*fp32"}
    peaks = {"CELL": 8, "ROUNDED": False, "PEAKS": True, "AT_ONCE": antidiagonal.BLOCKS_AT_ONCE}
    masses = dict.fromkeys(("weights_ptr", "sums_ptr", "peaks_ptr", "tau_ptr"), "*fp32")
    skipping = {"ROW_GROUP": ROW_GROUP, "PACKED": 1, "MEANS": False, "BITS_TILE": 128, "WIDE": False}
    return [
        (
            "skipping",
            _block_sparse_kernel,
            attention_config(head_dim, capability) | block | skipping | {"SKIP": True},
            {},
        ),
        ("rows", _rows_kernel, attention_config(head_dim, capability) | {"HEAD_DIM": head_dim}, {}),
        *((f"cells_{n}", _cells_kernel, block | {"STRIDE": n, "num_warps": warps}, {}) for n in (1, 8)),
        (
            "likeness",
            _likeness_kernel,
            block | {"CENTRED": True, "PARTIAL": -2.0, "num_warps": warps},
            {"mean_ptr": "*fp32", "likeness_ptr": "*fp32"},
        ),
        ("best_count", _best_kernel, best | {"WEIGHED": False, "WITHIN": False}, scores),
        ("best_share", _best_kernel, best | {"WEIGHED": True, "WITHIN": True}, scores),
        ("radii", _radii_kernel, block | {"num_warps": warps}, {"radii_ptr": "*fp32"}),
        (
            "rescue",
            _rescue_kernel,
            block | launch_config(head_dim, capability) | {"COMPACT": COMPACT_TILE},
            {"lifts_ptr": "*fp32", "log2_rescue": "fp32"},
        ),
        (
            "peaks",
            antidiagonal._antidiagonal_kernel,
            antidiagonal.launch_config(head_dim, capability) | block | peaks,
            masses,
        ),
        ("covering", antidiagonal._cumulative_kernel, {"WIDTH": 2048, "PEAKS": True, "num_warps": 4}, masses),
    ]


def compile_all(backend: str, arch: str, *head_dims: str) -> list[dict[str, object]]:
    """Compile every kernel for one chip."""
    from triton.backends.compiler import GPUTarget

    target = GPUTarget(backend, int(arch), 32) if backend == "cuda" else GPUTarget(backend, arch, 64)
    reports = []
    for head_dim in map(int, head_dims):
        for name, kernel, constants, types in kernels(head_dim, int(arch) if backend == "cuda" else 0):
            options = {key: constants.pop(key) for key in ("num_warps", "maxnreg") if key in constants}
            types = signature(kernel, "bf16") | types
            compiled = compile_kernel(kernel, types, constants, target=target, options=options)
            reports.append({"kernel": name, "head_dim": head_dim, **compiled.summary()})
    return reports


if __name__ == "__main__":
    print(json.dumps(compile_all(*sys.argv[1:])))
