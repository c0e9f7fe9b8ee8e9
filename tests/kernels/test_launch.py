"""Launching on a GPU that is not here: what is compiled again, and what reaches the driver."""

import ctypes
import importlib
import shutil
import struct
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
import torch

from fp_bench.kernels import launch
from fp_bench.kernels.launch import Binary, Box, CachedKernel, Kind, Tma
from tests.kernels import fake_cuda
from tests.kernels.fake_cuda import MAPS, STREAM, FakeTensor


class FakeKernel:
    """Stands for a kernel that Triton would compile: one tensor or more, one float, integers, constants."""

    def __init__(self, tensors: int = 1, integers: int = 3, alike: tuple[int, ...] = ()):
        self.params = [SimpleNamespace(do_not_specialize=at in alike) for at in range(tensors + 1 + integers)]


@pytest.fixture
def driver(monkeypatch):
    """The fake driver, and a compiler that lays parameters out as the real one does."""

    def compile_kernel(kernel, capability, kinds, floats, classes, constants, options):
        types = (
            ["*fp32"] * len(kinds) + ["fp32"] * floats + ["i64" if each & launch.WIDE else "i32" for each in classes]
        )
        ones = tuple(at for at, each in enumerate(classes) if each & 3 == launch.ONE)
        for at in ones:
            types[len(kinds) + floats + at] = "constexpr"
        maps = tuple(Tma(9, 2, 3, kind.block) for kind in kinds if kind.block)
        return Binary(b"code", "kernel", 32 * options["num_warps"], 100_000, maps, *launch._layout(kinds, types), ones)

    pytest.importorskip("triton", reason="triton is not installed (it exists for Linux only)")
    launch.tensor_map.cache_clear()
    monkeypatch.setattr(launch, "compile_kernel", compile_kernel)
    yield fake_cuda.install()
    mock.patch.stopall()
    launch.tensor_map.cache_clear()


def tensor(address=1 << 20, dtype=torch.float32, shape=(64,)):
    return FakeTensor(torch.Size(shape), dtype, address)


def run(kernel, operand, *integers, block=128, warps=4, programs=7):
    kernel(programs, (operand,), (0.5,), integers, {"BLOCK": block}, {"num_warps": warps})


def passed(launched, formats):
    """Read the first parameters of a launch by their formats, one each."""
    pairs = zip(formats, launched.offsets, strict=False)
    return [struct.unpack_from(f"<{each}", launched.memory, at)[0] for each, at in pairs]


def test_equal_classes_share_a_compiled_form_and_pass_all_arguments_in_order(driver):
    kernel = CachedKernel(FakeKernel())
    run(kernel, tensor(), 1, 32, 7)
    run(kernel, tensor(1 << 21), 1, 4096, 9, programs=3)
    assert len(driver.loaded) == 1
    first, second = driver.launched
    assert (first.programs, first.threads, first.shared, first.stream) == (7, 128, 100_000, STREAM)
    assert passed(first, "Qfii") == [1 << 20, 0.5, 32, 7]  # 1 is compiled in
    assert second.programs == 3
    assert passed(second, "QfiiQQ") == [1 << 21, 0.5, 4096, 9, 0, 0]


def test_whatever_triton_specialises_is_compiled_apart(driver):
    kernel = CachedKernel(FakeKernel(integers=1))
    variants = [
        lambda: run(kernel, tensor(), 32),
        lambda: run(kernel, tensor(), 33),
        lambda: run(kernel, tensor(), 1),
        lambda: run(kernel, tensor(), 2**31),
        lambda: run(kernel, tensor((1 << 20) + 4), 32),
        lambda: run(kernel, tensor(dtype=torch.float16), 32),
        lambda: run(kernel, tensor(), 32, block=64),
        lambda: run(kernel, tensor(), 32, warps=8),
    ]
    for variant in variants:
        variant()
    assert len(driver.loaded) == len(variants)
    for variant in variants:
        variant()
    assert len(driver.loaded) == len(variants)
    assert len(driver.launched) == 2 * len(variants)
    assert passed(driver.launched[3], "Qfq") == [1 << 20, 0.5, 2**31]


def test_sizes_that_the_kernel_does_not_specialise_share_a_form(driver):
    kernel = CachedKernel(FakeKernel(integers=2, alike=(2,)))
    for size in (1, 16, 17, 4096):
        run(kernel, tensor(), size, 32)
    assert len(driver.loaded) == 1
    assert passed(driver.launched[0], "Qfii") == [1 << 20, 0.5, 1, 32]
    run(kernel, tensor(), 2**31, 32)  # 64 bits wide
    run(kernel, tensor(), 17, 33)  # a stride
    assert len(driver.loaded) == 3


def test_where_nothing_is_compiled_triton_launches(driver):
    calls = []

    class Interpreted:
        def __getitem__(self, grid):
            return lambda *arguments, **keywords: calls.append((grid, arguments, keywords))

    x = torch.ones(4)
    for _ in range(2):
        run(CachedKernel(Interpreted()), x, 5)
    assert calls == [((7,), (x, 0.5, 5), {"BLOCK": 128, "num_warps": 4})] * 2
    assert not driver.launched


def test_a_box_is_passed_as_a_map_made_once_for_a_place_and_a_shape(driver):
    kernel = CachedKernel(FakeKernel(integers=1))
    here, there = (
        Box(tensor(place, torch.bfloat16, (1, 300, 2, 128)), (1, 64, 1, 128)) for place in (1 << 20, 1 << 21)
    )
    for operand in (here, here, there, here):
        run(kernel, operand, 5)
    assert driver.maps == 2
    assert len(driver.loaded) == 1
    formats = "Q" + "i" * 4 + "q" * 4 + "fiQQ"  # sizes and strides are in the map
    assert [passed(each, formats)[0] - MAPS for each in driver.launched] == [1 << 20, 1 << 20, 1 << 21, 1 << 20]
    assert passed(driver.launched[2], formats)[1:] == [*[0] * 8, 0.5, 5, 0, 0]


def test_threads_do_not_write_into_each_others_launches(driver):
    kernel = CachedKernel(FakeKernel(integers=1))

    def launch_often(number):
        for _ in range(300):
            run(kernel, tensor(number << 20), 5)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(launch_often, range(1, 5)))
    buffers = {each.start: set() for each in driver.launched}
    for each in driver.launched:
        buffers[each.start].add(passed(each, "Q")[0])
    assert all(len(addresses) <= 4 for addresses in buffers.values())
    addresses = [passed(each, "Q")[0] for each in driver.launched]
    assert {number << 20: addresses.count(number << 20) for number in range(1, 5)} == dict.fromkeys(
        (number << 20 for number in range(1, 5)), 300
    )


def test_a_thread_that_has_not_used_the_gpu_gets_its_context_and_launches_again(driver):
    kernel = CachedKernel(FakeKernel(integers=1))
    run(kernel, tensor(), 5)
    before = driver.contexts
    driver.statuses = [launch.NO_CONTEXT]
    run(kernel, tensor(), 5)
    assert driver.contexts == before + 1
    assert len(driver.launched) == 2


def test_what_the_driver_refuses_is_raised_with_its_words(driver):
    driver.statuses = [700]
    with pytest.raises(RuntimeError, match="cuLaunchKernel: CUDA error 700, status 700 of the fake"):
        run(CachedKernel(FakeKernel(integers=1)), tensor(), 5)


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler for a driver that is none")
def test_arguments_cross_into_c_as_the_driver_reads_them(tmp_path, monkeypatch):
    library = tmp_path / "stub.so"
    source = Path(__file__).with_name("stub_driver.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    stub = ctypes.CDLL(str(library))
    monkeypatch.setattr(ctypes, "CDLL", lambda name: {"libcuda.so.1": stub}[name])
    driver = launch.driver.__wrapped__()
    monkeypatch.setattr(launch, "driver", lambda: driver)
    seen = (ctypes.c_uint64 * 64).in_dll(stub, "seen")

    tma = Tma(9, 2, 3, (1, 64, 2, 128))
    made = launch.tensor_map.__wrapped__(1 << 40, (2, 300, 4, 128), (153600, 512, 128, 1), tma)
    assert made == b"\7" * 128
    assert seen[:4] == [9, 4, 1 << 40, 3]
    assert seen[4:8] == [128, 4, 300, 2]  # innermost first
    assert seen[8:11] == [256, 1024, 307200]  # bytes
    assert seen[12:16] == [128, 2, 64, 1]

    kinds = (Kind("bf16", True, tma.block), Kind("fp32"))
    layout = launch._layout(kinds, ["tensordesc", "*fp32", "fp32", "i32", "constexpr", "i64"])
    binary = Binary(b"a\0b", "kernel", 384, 100_000, (tma,), *layout, (1,))
    run_it = launch.Launch(binary, launch._load(binary, 5), 5, 132, [0.5, 9, 1 << 40])
    run_it((1 << 50) + 7, bytes(range(128)), (1 << 45) + 1)
    assert seen[:4] == [132, 384, 100_000, (1 << 50) + 7]
    assert bytes(seen)[32:160] == bytes(range(128))
    assert seen[20] == (1 << 45) + 1
    assert struct.unpack("<f", bytes(seen)[168:172]) == (0.5,)
    assert seen[22:25] == [9, 1 << 40, 0]
    with pytest.raises(RuntimeError, match="cuDevicePrimaryCtxRetain: CUDA error 1, off"):
        launch._load(binary, 6)


@pytest.mark.parametrize(
    "module",
    [
        *("attention.hopper", "attention.triton", "flashprefill.triton", "pooling.triton"),
        *("paged.hopper", "paged.attention_triton", "paged.discovery_triton", "paged.pooling_triton"),
    ],
)
def test_lengths_never_compile_a_kernel_again(module):
    """Whatever changes with the length of a call is named in SIZES, or the user waits for the compiler."""
    kernels = importlib.import_module(f"fp_bench.kernels.{module}")
    free = set(kernels.SIZES)
    sizes = {"q_len", "kv_len", "rows", "first", "tiles", "table_width"}
    assert free >= sizes & set(kernel_arguments(kernels))
    assert not any(name.startswith("stride_") for name in free)


def kernel_arguments(module):
    return next(value._kernel for value in vars(module).values() if isinstance(value, CachedKernel)).arg_names
