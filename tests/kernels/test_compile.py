"""The portable kernels compile for chips that are not here, within each chip's shared memory."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fp_bench.kernels.backend import gluon_missing, triton_version
from tests.kernels.fake_cuda import MAPS, STREAM

pytest.importorskip("triton", reason="triton is not installed (it exists for Linux only)")
ROOT = Path(__file__).parents[2]
KIB = 1024


def compile_elsewhere(*arguments: str, cache: Path, triton: Path | None = None):
    """Compile in a process without Triton's interpreter; return the reports by what was asked for.

    With the Triton that is installed, or the one in a folder.
    """
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(cache)
    if triton:
        environment["PYTHONPATH"] = os.pathsep.join([str(triton.absolute()), environment.get("PYTHONPATH", "")])
    run = subprocess.run(
        [sys.executable, "-m", "tests.kernels.aot", *arguments],
        capture_output=True, text=True, env=environment, cwd=ROOT, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-2000:]
    return json.loads(run.stdout)


LIMIT = {"cuda-80": 163, "cuda-89": 99, "cuda-90": 227, "cuda-100": 227, "hip-gfx942": 64}
RIVALS_ON = ("cuda-89", "cuda-90", "hip-gfx942")
"""Chips that the rivals' kernels are compiled for too."""


@pytest.fixture(
    scope="module",
    params=[
        ("cuda-90", "portable_128"),
        # Left to `make slow`: it takes most of a minute a chip, and results are published for sm_90 alone.
        *(pytest.param((chip, "portable"), marks=pytest.mark.slow) for chip in LIMIT),
    ],
    ids="-".join,
)
def compiled(request, tmp_path_factory):
    """The portable kernels for one chip, at all head sizes or one: a process, since to import torch takes as long."""
    chip, portable = request.param
    rivals = ("rivals", "vertical_slash") if portable == "portable" and chip in RIVALS_ON else ()
    kernels = (portable, *rivals)
    reports = compile_elsewhere(",".join(kernels), *chip.split("-"), cache=tmp_path_factory.mktemp("triton"))
    return chip, reports | {"portable": reports[portable]}


def of_rivals(compiled, kernels):
    chip, reports = compiled
    if kernels not in reports:
        pytest.skip("the rivals' kernels are compiled for three chips, in `make slow`")
    return chip, reports[kernels]


def test_every_kernel_fits_the_chips_shared_memory(compiled):
    chip, reports = compiled[0], compiled[1]["portable"]
    head_dims = (128,) if "portable_128" in compiled[1] else (64, 128, 256)
    assert {(report["kernel"], report["head_dim"]) for report in reports} == {
        (kernel, head_dim) for kernel in ("pool", "discover", "attend") for head_dim in head_dims
    }
    for report in reports:
        assert report["shared_bytes"] <= LIMIT[chip] * KIB, report


def test_hopper_runs_on_its_own_tensor_cores_without_spills_at_128(compiled):
    chip, reports = compiled[0], compiled[1]["portable"]
    if chip != "cuda-90":
        pytest.skip("only sm_90 has wgmma")
    for report in reports:
        if report["kernel"] != "pool" and report["head_dim"] == 128:
            assert report["wgmma"] > 0, report
            # Releases differ in the scalars that they put on the stack, but the loops over keys touch none.
            assert report["spills_in_loops"] == 0, report
            assert report["spill_bytes"] <= 48, report


def test_the_rivals_selections_compile_and_fit(compiled):
    chip, reports = of_rivals(compiled, "rivals")
    for report in reports:
        assert report["shared_bytes"] <= LIMIT[chip] * KIB, report
    if chip == "cuda-90":
        spills = {report["kernel"]: report["spill_bytes"] for report in reports if report["spill_bytes"]}
        # Both keep scalars and addresses there, out of their inner loops; see their files.
        assert set(spills) <= {"antidiagonal", "last_mass"}
        assert max(spills.values(), default=0) <= 160
        products = {report["kernel"]: report["wgmma_waits"] for report in reports if report["wgmma"]}
        assert set(products) == {"energies", "antidiagonal", "last_rows", "last_mass", "block_attention"}
        assert 1 in products["antidiagonal"]  # one step's product runs while the next one's operands arrive


def test_vertical_slash_compiles_and_fits(compiled):
    chip, reports = of_rivals(compiled, "vertical_slash")
    for report in reports:
        assert report["shared_bytes"] <= LIMIT[chip] * KIB, report
    if chip == "cuda-90":
        by_name = {report["kernel"]: report for report in reports}
        assert {name for name, report in by_name.items() if report["spill_bytes"]} <= {"attend_256"}
        for attend in (by_name["attend_128"], by_name["attend_blocks"]):
            assert attend["wgmma"] > 0
            assert attend["async_copies"] > 0  # tiles that follow are on their way while one is computed
            assert 2 * (attend["shared_bytes"] + KIB) <= 228 * KIB  # two programs an SM
            assert 2 * 128 * attend["registers"] <= 65536


@pytest.mark.slow
def test_paged_kernels_compile_for_hopper_as_the_unpaged_ones_do(tmp_path):
    compiled = compile_elsewhere("paged", "cuda", "90", "16", "128", cache=tmp_path)["paged"]
    reports = {report["kernel"]: report for report in compiled}
    for report in reports.values():
        assert report["shared_bytes"] <= LIMIT["cuda-90"] * KIB
        assert report["spill_bytes"] == 0
    for kernel in ("attend_16", "attend_128"):  # a page number a key, a page number a tile
        assert reports[kernel]["wgmma"] > 0
        assert reports[kernel]["async_copies"] > 0  # the next tile is on its way while one is computed
    assert 3 * reports["discover"]["registers"] * 128 <= 65536  # three programs an SM


needs_gluon = pytest.mark.skipif(gluon_missing() is not None, reason=str(gluon_missing()))


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """The three launches of a call of 4000 tokens, 32 query and 8 KV heads of 128, on a Hopper that is not here."""
    return compile_elsewhere("launches", cache=tmp_path_factory.mktemp("triton"))["launches"]


@needs_gluon
def test_the_hopper_kernel_overlaps_its_products_and_does_not_spill(launched):
    report = launched[2]
    # 0: a product's own result; 1: S is awaited while O += P V is still running.
    assert report["wgmma_waits"] == [0, 1]
    assert report["spill_bytes"] == 0
    assert report["shared_bytes"] <= LIMIT["cuda-90"] * KIB
    assert report["registers"] == 168  # what setmaxnreg 240 / 240 / 24 starts from


@needs_gluon
def test_a_planned_call_passes_what_its_kernels_declare(launched):
    """Parameters as the kernels' PTX reads them."""
    for report in launched:
        assert report["threads"] == report["threads_in_ptx"]
        assert report["shared"] == report["shared_bytes"]
        assert report["stream"] == STREAM
        assert report["parameters"][-2:] == [0, 0]
    pool, discover, attend = launched
    q, k, v = (place << 36 for place in (1, 2, 3))  # see fake_cuda.tensors
    k_read, pooled, *sizes = pool["parameters"][:-2]
    assert pool["programs"] == 32 * 8
    assert (k_read, sizes) == (k, [4000, 32, 8, 4000 * 1024, 1024, 128, 32 * 1024, 1024, 128])
    q_read, pooled_read, scratch, blocks, counts, *rest = discover["parameters"][:-2]
    assert (q_read, pooled_read) == (q, pooled)
    # One workspace: pooled keys, a row of energies a program, lists, counts.
    lengths = (32 * 8 * 128 * 2, 396 * 32 * 4, 32 * 32 * 32 * 2)
    assert [scratch - pooled, blocks - scratch, counts - blocks] == [-(-length // 256) * 256 for length in lengths]
    assert rest[:2] == pytest.approx([128**-0.5 * math.log2(math.e), math.log2(0.12)])
    assert rest[2:13] == [2, 4, 2, 4000, 4000, 0, 32, 32, 32, 32, 4]
    addresses = attend["parameters"][: 9 * 6 : 9]
    assert [address - MAPS for address in addresses[:3]] == [q, k, v]
    assert addresses[4:] == addresses[1:3]  # nothing reads the means
    q_by_pointers, out, _, *lists = attend["parameters"][54:61]
    assert q_by_pointers == q
    assert addresses[3] - MAPS == out
    assert lists == [blocks, counts, counts, counts]
    assert attend["parameters"][62:64] == [rest[0], 0]
    eights = [4000 * 512, 512, 16]  # strides of Q
    assert attend["parameters"][64:-2] == [1024, 4000, 32, 0, 0, 32, 32, 32, 32, 4, 1, *eights]


@needs_gluon
def test_the_hopper_kernel_skips_beside_its_products_without_spills_in_the_loop(launched, tmp_path):
    report = compile_elsewhere("skipping", "128", cache=tmp_path)["skipping"]["128"]
    without = launched[2]
    # The first product of a row; then S alone, or S and O += P V of the tile before; O += P V of the last tile.
    assert report["wgmma"] == without["wgmma"] * 5 // 4
    assert report["tma"] == without["tma"] + 2  # V of a tile between others, and of a row's last one
    assert report["wgmma_waits"] == [0, 1]
    assert report["registers"] == 168
    assert report["shared_bytes"] <= LIMIT["cuda-90"] * KIB
    assert report["spills_in_loops"] == 0
    assert report["spill_bytes"] <= 64  # scalars of a row of tiles
    # Each arm of each consumer's step agrees by votes that every warp reads: two stores, one load, one reduction.
    assert [step["redux.sync"] for step in report["votes"]] == [1] * 4
    assert [step["st.shared"] for step in report["votes"]] == [2] * 4
    assert [step["shfl.sync"] for step in report["votes"]] == [4] * 4
    # Exponentials run under the product of the tile before; its weights are not overwritten before it is done.
    assert all(step["MUFU.EX2"] >= 64 and step["F2FP.BF16"] == 0 for step in report["under_products"])
    assert len(report["under_products"]) == 2


@pytest.mark.slow
@needs_gluon
def test_the_hopper_kernel_skips_at_every_head_size_and_packed(tmp_path):
    for case, report in compile_elsewhere("skipping", "64", "256", "128x3", "128x4", cache=tmp_path)[
        "skipping"
    ].items():
        assert report["wgmma_waits"] == [0, 1], case
        assert report["registers"] == 168, case
        assert report["spills_in_loops"] == 0, case
        assert report["shared_bytes"] <= LIMIT["cuda-90"] * KIB, case


@pytest.mark.slow
@needs_gluon
def test_packed_rows_of_every_group_compile_as_rows_of_one_head_do(tmp_path):
    groups = compile_elsewhere("groups", *"12345678", cache=tmp_path)["groups"]
    for group, report in groups.items():
        assert report["wgmma"] == groups["1"]["wgmma"], group
        assert report["wgmma_waits"] == [0, 1], group
        assert report["spill_bytes"] == 0, group
        assert report["registers"] == 168, group
        # Of a group that is no power of two, Q and O go through pointers.
        by_pointers = 128 % int(group) != 0
        assert by_pointers or report["tma"] == groups["1"]["tma"], group
        assert report["wide_loads"] == 16 * by_pointers, group  # of 16 bytes a thread, for 128 places
        assert report["shared_bytes"] <= LIMIT["cuda-90"] * KIB, group


@pytest.mark.slow
def test_a_planned_selection_of_flexprefill_passes_what_its_kernels_declare(tmp_path):
    reports = compile_elsewhere("select_flex", cache=tmp_path)["select_flex"]
    parameters = {report["kernel"]: report["parameters"][:-2] for report in reports}
    assert len(reports) == len(parameters) == 8
    for report in reports:
        assert report["threads"] == report["threads_in_ptx"]
        assert report["shared"] == report["shared_bytes"]
        assert report["spill_bytes"] == 0
    operands, rows, join, mass, patterns, attention, crossing, lists = parameters.values()
    q, k = 1 << 36, 2 << 36  # see fake_cuda.tensors
    assert operands[:2] == [q, k]
    last, mean, pooled, queries = operands[2:6]
    assert rows[:2] == mass[:2] == [last, k]
    assert join[:2] == rows[2:4]
    assert mass[2] == join[2]
    assert patterns[:5] == [*mass[3:6], mean, pooled]
    kept, query_aware = patterns[7:9]
    assert attention[:3] == [queries, pooled, query_aware]
    weights = attention[3]
    assert crossing[:2] == [weights, query_aware]
    assert crossing[3] == pytest.approx(0.9 * 32)
    assert lists[:4] == [kept, weights, crossing[2], query_aware]


def folder_of(version: str) -> Path | None:
    """Return the folder of ``TRITONS`` that holds this release, as ``pip install --target`` leaves it."""
    folders = map(Path, filter(None, os.environ.get("TRITONS", "").split(os.pathsep)))
    return next((folder for folder in folders if list(folder.glob(f"triton-{version}.*.dist-info"))), None)


@pytest.mark.slow
@pytest.mark.parametrize("version", ["3.6", "3.7", "3.8", "3.9"])
def test_every_release_compiles_the_hopper_kernels_alike(version, tmp_path):
    folder = folder_of(version)
    if folder is None and version != ".".join(map(str, triton_version())):
        pytest.skip(f"Triton {version} is neither installed nor in a folder named in TRITONS (`make tritons`)")
    reports = compile_elsewhere("every_hopper", cache=tmp_path, triton=folder)["every_hopper"]
    for name, report in reports.items():
        assert report["wgmma"] > 0, name
        # Q, K and V of two consumers come in, O of each leaves; no box has the shape of three heads' rows.
        assert report["tma"] >= (2 if name == "attend_packed_by_three" else 6), name
        assert report["wgmma_waits"] == [0, 1], name
        assert report["registers"] == 168, name
        assert report["shared_bytes"] <= LIMIT["cuda-90"] * KIB, name
        assert report["spills_in_loops"] == 0, name
    assert reports["attend_64"]["spill_bytes"] == reports["attend_128"]["spill_bytes"] == 0


@pytest.mark.slow
@needs_gluon
@pytest.mark.parametrize(
    "cases",
    [("128x128",), ("64x128", "128x16", "128x64", "256x64", "256x128")],
    ids=["128", "others"],
)
def test_the_hopper_kernel_over_pages_is_the_unpaged_one_but_for_look_ups(cases, tmp_path):
    reports = compile_elsewhere("paged_hopper", *cases, cache=tmp_path)["paged_hopper"]
    for case, report in reports.items():
        assert report["wgmma_waits"] == [0, 1]
        # Scalars that a row of tiles needs once; the loops over blocks touch no stack.
        assert report["spills_in_loops"] == 0, case
        assert report["spill_bytes"] <= (80 if case.startswith("256") else 32)
        assert report["shared_bytes"] <= LIMIT["cuda-90"] * KIB
        assert report["registers"] == 168


@pytest.mark.slow
@needs_gluon
def test_the_fp8_kernels_use_8_bit_products_and_exchange_nothing_but_row_sums(tmp_path):
    quantise, attend = compile_elsewhere("fp8", cache=tmp_path)["fp8"]
    assert quantise["spill_bytes"] == 0
    assert 4 * (quantise["shared_bytes"] + KIB) <= 228 * KIB  # four programs an SM
    assert 2 * 256 * quantise["registers"] <= 65536  # two
    assert attend["products"] == ["m64n128k32.f32.e4m3.e4m3", "m64n128k32.s32.s8.s8"]
    assert attend["wgmma_waits"] == [0, 1]
    assert attend["registers"] == 168
    assert attend["shared_bytes"] <= LIMIT["cuda-90"] * KIB
    assert attend["spills_in_loops"] == 0
    for softmax in attend["exchanged"]:  # one a consumer: S to P, 64 numbers a thread
        assert softmax["ex2.approx"] == 64 + 2
        assert softmax["shfl.sync"] == 2 * 2 * 2  # maximum and sum of two rows over four threads
        assert softmax["st.shared"] == softmax["prmt"] == 0
        assert softmax["cvt.rn.f32.s32"] == 2  # the maxima
    assert len(attend["exchanged"]) == 2
