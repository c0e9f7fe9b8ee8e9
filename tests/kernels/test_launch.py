"""The launch cache, with a stand-in for a Triton kernel: what is compiled again, and what is passed on."""

import importlib
from types import SimpleNamespace

import pytest
import torch

from fp_bench.kernels.launch import CachedKernel


class FakeKernel:
    """Records compilations and launches as Triton's two launch paths would see them."""

    def __init__(self, compiles=True):
        self.compiles = compiles
        self.compiled: list[tuple] = []
        self.launched: list[tuple] = []

    def __getitem__(self, grid):
        def first_launch(*arguments, **keywords):
            self.compiled.append((grid, arguments, keywords))
            return _Compiled(self) if self.compiles else None

        return first_launch


class _Compiled:
    def __init__(self, kernel):
        self.kernel = kernel

    def __getitem__(self, grid):
        return lambda *arguments: self.kernel.launched.append((grid, arguments))


def launch(kernel, tensor, *integers, block=128, warps=4, programs=7):
    kernel(programs, (tensor,), (0.5,), integers, {"BLOCK": block}, {"num_warps": warps})


def test_equal_classes_launch_what_was_compiled_with_all_arguments_in_order():
    fake = FakeKernel()
    kernel = CachedKernel(fake)
    tensor = torch.zeros(64)
    launch(kernel, tensor, 1, 32, 7)
    launch(kernel, tensor, 1, 4096, 9, programs=3)
    assert fake.compiled == [((7,), (tensor, 0.5, 1, 32, 7), {"BLOCK": 128, "num_warps": 4})]
    assert fake.launched == [((3, 1, 1), (tensor, 0.5, 1, 4096, 9, 128))]


def test_whatever_triton_specialises_is_compiled_apart():
    fake = FakeKernel()
    kernel = CachedKernel(fake)
    aligned = torch.zeros(64)
    variants = [
        lambda: launch(kernel, aligned, 32),
        lambda: launch(kernel, aligned, 33),
        lambda: launch(kernel, aligned, 1),
        lambda: launch(kernel, aligned, 2**31),
        lambda: launch(kernel, aligned[1:], 32),
        lambda: launch(kernel, aligned.half(), 32),
        lambda: launch(kernel, aligned, 32, block=64),
        lambda: launch(kernel, aligned, 32, warps=8),
    ]
    for variant in variants:
        variant()
    assert len(fake.compiled) == len(variants)
    for variant in variants:
        variant()
    assert len(fake.compiled) == len(fake.launched) == len(variants)


def test_under_the_interpreter_nothing_is_remembered():
    fake = FakeKernel(compiles=False)
    kernel = CachedKernel(fake)
    for _ in range(2):
        launch(kernel, torch.zeros(4), 5)
    assert len(fake.compiled) == 2
    assert not fake.launched


def test_sizes_that_the_kernel_does_not_specialise_share_a_form():
    fake = FakeKernel()
    fake.params = [SimpleNamespace(do_not_specialize=free) for free in (False, False, True, False)]
    kernel = CachedKernel(fake)
    tensor = torch.zeros(64)
    for size in (1, 16, 17, 4096):
        launch(kernel, tensor, size, 32)
    assert len(fake.compiled) == 1
    launch(kernel, tensor, 2**31, 32)  # 64 bits wide
    launch(kernel, tensor, 17, 33)  # a stride
    assert len(fake.compiled) == 3


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
