"""Launching Triton and Gluon kernels: Triton compiles them, the CUDA driver launches them.

Triton's own launch path binds, hashes and specialises every argument of every call. This takes tens of microseconds of
Python for each kernel: at 4K as long as the kernel runs. Here, arguments that follow from shapes and strides are
packed once (`CachedKernel.prepare`). A call only writes the addresses before them and passes the buffer to
``cuLaunchKernel``.

The only state is bounded caches, and their keys determine their values. A buffer belongs to one thread. Launches go to
the given stream, also while it is captured. On other GPUs, and in Triton's interpreter, Triton launches the kernels.
"""

import ctypes
import functools
import struct
import threading
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

TYPES = {
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.float32: "fp32",
    torch.float64: "fp64",
    torch.float8_e4m3fn: "fp8e4nv",
    torch.float8_e5m2: "fp8e5",
    torch.bool: "i1",
    torch.uint8: "u8",
    torch.int8: "i8",
    torch.int16: "i16",
    torch.int32: "i32",
    torch.int64: "i64",
}
"""Triton's names of the types that a tensor argument can have."""
GLUON_TYPES = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32", "fp8e4nv": "float8e4nv", "i8": "int8"}
TMA_TYPES = {"fp16": 6, "bf16": 9, "fp32": 7, "fp8e4nv": 0, "i8": 0}
"""Of ``CUtensorMapDataType``; 8-bit numbers are copied as bytes."""
MAP_BYTES = 128
"""Of a tensor map, which tells TMA where a tensor lies."""
DEFAULT_SHARED = 48 * 1024
"""Shared memory that a kernel gets without asking."""
LAUNCH_ARGUMENTS: Any = (ctypes.c_void_p, *[ctypes.c_uint] * 7, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
"""Function; programs and threads in three dimensions; shared memory; stream; parameters; what is not used."""
NO_CONTEXT = 201
"""The driver's status on a thread that has not used the GPU yet."""


class Box(NamedTuple):
    """A tensor that TMA reads and writes, one box of size ``block`` at a time."""

    base: Tensor
    block: tuple[int, ...]


class Kind(NamedTuple):
    """What a kernel is compiled for: a tensor's type, whether its address is a multiple of 16, its box."""

    type: str
    aligned: bool = True
    block: tuple[int, ...] = ()


class Tma(NamedTuple):
    """How a compiled kernel's tensor map is encoded."""

    type: int
    bytes: int
    swizzle: int
    block: tuple[int, ...]


class Binary(NamedTuple):
    """A compiled kernel and the layout of its parameters.

    Args:
        cubin: machine code of one kind of chip.
        name: of the kernel in it.
        threads: of a program.
        shared: bytes of shared memory of a program.
        maps: of the boxes among its arguments, in order.
        head: format of the tensors' parameters, packed at every call.
        tail: format of the numbers', packed once.
        offsets: of all parameters in a buffer of head and tail.
        ones: positions of the integers that are compiled in, since they are 1.
    """

    cubin: bytes
    name: str
    threads: int
    shared: int
    maps: tuple[Tma, ...]
    head: str
    tail: str
    offsets: tuple[int, ...]
    ones: tuple[int, ...]


class Launch(threading.local):
    """A kernel with all its arguments except the addresses; each thread has its own buffer."""

    def __init__(self, binary: Binary, function: int, device: int, programs: int, numbers: Sequence[float]) -> None:
        self.maps = binary.maps
        self._head = struct.Struct(binary.head)
        self._buffer = ctypes.create_string_buffer(struct.calcsize(binary.head + binary.tail[1:]))
        struct.pack_into(binary.tail, self._buffer, self._head.size, *numbers)
        start = ctypes.addressof(self._buffer)
        parameters = (ctypes.c_void_p * len(binary.offsets))(*(start + at for at in binary.offsets))
        self._before = function, programs, 1, 1, binary.threads, 1, 1, binary.shared
        self._parameters = parameters
        self._device = device
        self._launch = driver().cuLaunchKernel

    def __call__(self, stream: int, *addresses: int | bytes) -> None:
        """Launch on a stream of the current device.

        Args:
            stream: its handle.
            addresses: of the tensors, tensor maps in place of boxes.
        """
        self._head.pack_into(self._buffer, 0, *addresses)
        status = self._launch(*self._before, stream, self._parameters, None)
        if status == NO_CONTEXT:
            _enter(self._device)
            status = self._launch(*self._before, stream, self._parameters, None)
        if status:
            _check(status, "cuLaunchKernel")


@functools.cache
def _mend_interpreter() -> None:
    """Let Triton's interpreter spread a scalar condition over a block as booleans.

    It gives a comparison the type of its operands, so the block holds integers, which loads and stores of 3.9 refuse
    as masks. Compiled kernels have no part in this.
    """
    from triton import language
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    splat = InterpreterBuilder.create_splat

    def create_splat(builder: Any, block_type: Any, scalar: Any) -> Any:
        condition = scalar.data.dtype == bool
        return splat(builder, block_type, TensorHandle(scalar.data, language.int1) if condition else scalar)

    InterpreterBuilder.create_splat = create_splat


class CachedKernel:
    """A kernel with a cache of its compiled forms.

    Triton compiles a special form for an integer that is 1 or a multiple of 16, unless the kernel names it in
    ``do_not_specialize``, and for a pointer that is aligned to 16 bytes. Arguments of equal classes share a compiled
    form, whatever the lengths.
    """

    def __init__(self, kernel: Any) -> None:
        self._kernel = kernel
        if not hasattr(kernel, "params"):
            _mend_interpreter()
        # Triton's interpreter keeps no parameters, and nothing compiled either.
        self._alike = [parameter.do_not_specialize for parameter in getattr(kernel, "params", ())]
        self._forms: dict[tuple[object, ...], tuple[Binary, int]] = {}
        self._prepared = functools.lru_cache(maxsize=256)(self._prepare)

    def __call__(
        self,
        programs: int,
        tensors: Sequence[Tensor | Box],
        floats: Sequence[float],
        integers: Sequence[int],
        constants: Mapping[str, object],
        options: Mapping[str, int],
    ) -> None:
        """Launch ``programs`` programs on the current stream of the tensors' device.

        Args:
            programs: size of the one-dimensional grid.
            tensors: the kernel's first arguments.
            floats: the arguments after them.
            integers: the arguments after those.
            constants: the constexpr arguments, the kernel's last, in order.
            options: of the compiler, e.g. ``num_warps``.
        """
        device = _base(tensors[0]).device
        if device.type != "cuda" or torch.version.hip or not self._alike:
            self._kernel[(programs,)](*tensors, *floats, *integers, **constants, **options)
            return
        if device.index != torch.cuda.current_device():
            with torch.cuda.device(device):
                return self(programs, tensors, floats, integers, constants, options)
        launch = self.prepare(device, programs, tensors, floats, integers, constants, options)
        maps = iter(launch.maps)
        launch(current_stream(device), *(_address(tensor, maps) for tensor in tensors))

    def prepare(
        self,
        device: torch.device,
        programs: int,
        tensors: Sequence[Tensor | Box],
        floats: Sequence[float],
        integers: Sequence[int],
        constants: Mapping[str, object],
        options: Mapping[str, int],
    ) -> Launch:
        """Return the launch for arguments like these on an NVIDIA GPU, the current device; compile it if none fits.

        Tensors may be on device ``meta``; only their kinds are kept.
        """
        kinds = tuple(map(kind_of, tensors))
        settings = tuple(constants.items()), tuple(options.items())
        return self._prepared(device.index, programs, kinds, tuple(floats), tuple(integers), *settings)

    def _prepare(
        self,
        device: int,
        programs: int,
        kinds: tuple[Kind, ...],
        floats: tuple[float, ...],
        integers: tuple[int, ...],
        constants: tuple[tuple[str, object], ...],
        options: tuple[tuple[str, int], ...],
    ) -> Launch:
        alike = self._alike[len(kinds) + len(floats) :]
        classes = tuple(map(_integer_class, integers, alike))
        key = device, kinds, classes, constants, options
        if key not in self._forms:
            major, minor = torch.cuda.get_device_capability(device)
            settings = dict(constants), dict(options)
            binary = compile_kernel(self._kernel, 10 * major + minor, kinds, len(floats), classes, *settings)
            self._forms[key] = binary, _load(binary, device)
        binary, function = self._forms[key]
        passed = [value for at, value in enumerate(integers) if at not in binary.ones]
        return Launch(binary, function, device, programs, [*floats, *passed])


def compile_kernel(
    kernel: Any,
    capability: int,
    kinds: Sequence[Kind],
    floats: int,
    classes: Sequence[int],
    constants: Mapping[str, object],
    options: Mapping[str, int],
) -> Binary:
    """Compile a kernel for an NVIDIA chip, which need not be here, or read it from Triton's cache on disk.

    Args:
        kernel: of Triton or Gluon.
        capability: ten times the compute capability.
        kinds: of the tensors.
        floats: number of float arguments.
        classes: of the integers, see `_integer_class`.
        constants: the constexpr arguments.
        options: of the compiler.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    source = ASTSource
    if kernel.is_gluon():
        from fp_bench.kernels.gluon import GluonASTSource as source
    numbers = ["fp32"] * floats + ["i64" if each & WIDE else "i32" for each in classes]
    types = [*map(_type_name, kinds), *numbers]
    ones = tuple(at for at, each in enumerate(classes) if each & 3 == ONE)
    at_first_integer = len(kinds) + floats
    known = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    for at in ones:
        types[at_first_integer + at] = "constexpr"
        known[(at_first_integer + at,)] = 1
    multiples = [at for at, kind in enumerate(kinds) if kind.aligned and not kind.block]
    multiples += [at_first_integer + at for at, each in enumerate(classes) if each & 3 == MULTIPLE]
    signature = dict(zip(kernel.arg_names, types, strict=False)) | dict.fromkeys(constants, "constexpr")
    compiled = triton.compile(
        source(kernel, signature, known, {(at,): [["tt.divisibility", 16]] for at in multiples}),
        target=GPUTarget("cuda", capability, 32),
        # Products and sums are fused whatever the release's default: 3.9 warns that its successor's will change.
        options={"enable_fp_fusion": True, **options},
    )
    facts = compiled.metadata
    if facts.global_scratch_size or facts.profile_scratch_size:
        raise RuntimeError(f"{facts.name} needs scratch memory, which launches here do not pass")
    boxes = [kind for kind in kinds if kind.block]
    maps = tuple(
        Tma(TMA_TYPES[kind.type], how["elem_size"], how["swizzle"], tuple(how["block_size"]))
        for kind, how in zip(boxes, facts.tensordesc_meta if boxes else (), strict=True)
    )
    return Binary(
        compiled.asm["cubin"], facts.name, 32 * facts.num_warps, facts.shared, maps, *_layout(kinds, types), ones
    )


def _type_name(kind: Kind) -> str:
    if not kind.block:
        return f"*{kind.type}"
    from triton.experimental.gluon import language as gl

    layout = gl.NVMMASharedLayout.get_default_for(list(kind.block), getattr(gl, GLUON_TYPES[kind.type]))
    return f"tensordesc<{kind.type}{list(kind.block)},{layout!r}>"


def _layout(kinds: Sequence[Kind], types: Sequence[str]) -> tuple[str, str, tuple[int, ...]]:
    """Return the formats of tensors and of numbers, and the offsets of all parameters in a buffer of both.

    A box has a parameter for its map and, unused, for each size (32 bits) and stride (64). Two addresses of scratch
    memory, unused too, come last.
    """
    head, offsets, size = "<", [], 0
    for kind in kinds:
        parts = [MAP_BYTES, *[4] * len(kind.block), *[8] * len(kind.block)] if kind.block else [8]
        head += f"{parts[0]}s{sum(parts[1:])}x" if kind.block else "Q"
        for part in parts:
            offsets.append(size)
            size += part
    tail = "<"
    for name in types[len(kinds) :]:
        if name != "constexpr":
            tail += {"fp32": "f", "i32": "i", "i64": "q"}[name]
            offsets.append(size)
            size += struct.calcsize(tail[-1])
    return head, f"{tail}16x", (*offsets, size, size + 8)


ONE, MULTIPLE, WIDE = 1, 2, 4


def _integer_class(value: int, alike: bool) -> int:
    """Return the class of an integer in Triton's specialisation; 64-bit integers have their own classes."""
    wide = 0 if -(2**31) <= value < 2**31 else WIDE
    if alike:
        return wide
    return wide + (ONE if value == 1 else MULTIPLE if value % 16 == 0 else 0)


def kind_of(tensor: Tensor | Box) -> Kind:
    """Return the properties of a tensor that a kernel is compiled for."""
    if isinstance(tensor, Box):
        return Kind(TYPES[tensor.base.dtype], True, tensor.block)
    return Kind(TYPES[tensor.dtype], tensor.data_ptr() % 16 == 0)


def current_stream(device: torch.device) -> int:
    """Return the handle of the stream that torch launches on."""
    # A tenth of the time of torch.cuda.current_stream(), which makes an object first; Triton calls it too.
    handle: int = torch._C._cuda_getCurrentRawStream(device.index)
    return handle


def split_options(config: Mapping[str, int]) -> tuple[dict[str, int], dict[str, int]]:
    """Return a configuration's constants and its compiler options."""
    compiler = ("num_warps", "maxnreg")
    options = {name: value for name, value in config.items() if name in compiler}
    return {name: value for name, value in config.items() if name not in compiler}, options


def _base(argument: Tensor | Box) -> Tensor:
    return argument.base if isinstance(argument, Box) else argument


def _address(argument: Tensor | Box, maps: Any) -> int | bytes:
    if not isinstance(argument, Box):
        return argument.data_ptr()
    base = argument.base
    return tensor_map(base.data_ptr(), base.shape, base.stride(), next(maps))


@functools.lru_cache(maxsize=1024)
def tensor_map(address: int, shape: tuple[int, ...], strides: tuple[int, ...], tma: Tma) -> bytes:
    """Encode the map by which TMA finds a tensor; strides in numbers, the last one 1. Past its end TMA reads 0."""
    rank = len(shape)
    room = ctypes.create_string_buffer(MAP_BYTES + 63)
    place = ctypes.addressof(room) + -ctypes.addressof(room) % 64
    status = driver().cuTensorMapEncodeTiled(
        place, tma.type, rank, address,
        (ctypes.c_uint64 * rank)(*shape[::-1]),
        (ctypes.c_uint64 * (rank - 1))(*(stride * tma.bytes for stride in strides[-2::-1])),
        (ctypes.c_uint32 * rank)(*tma.block[::-1]),
        (ctypes.c_uint32 * rank)(*[1] * rank),
        0, tma.swizzle, 2, 0,  # not interleaved; 128 bytes at a time into L2; zeros outside
    )  # fmt: skip
    _check(status, f"tensor map of {tuple(shape)}, strides {strides}, boxes of {tma.block}")
    return ctypes.string_at(place, MAP_BYTES)


@functools.cache
def driver() -> Any:
    """Return the CUDA driver's functions."""
    cuda = ctypes.CDLL("libcuda.so.1")
    pointer, number = ctypes.c_void_p, ctypes.c_uint
    cuda.cuLaunchKernel.argtypes = LAUNCH_ARGUMENTS
    cuda.cuTensorMapEncodeTiled.argtypes = [pointer, number, number, *[pointer] * 5, *[number] * 4]
    cuda.cuModuleLoadData.argtypes = [pointer, ctypes.c_char_p]
    cuda.cuModuleGetFunction.argtypes = [pointer, pointer, ctypes.c_char_p]
    cuda.cuFuncSetAttribute.argtypes = [pointer, number, number]
    cuda.cuFuncSetCacheConfig.argtypes = [pointer, number]
    cuda.cuDevicePrimaryCtxRetain.argtypes = [pointer, number]
    cuda.cuCtxSetCurrent.argtypes = [pointer]
    return cuda


def _load(binary: Binary, device: int) -> int:
    """Load a kernel on the current device; return its function's handle. It stays loaded as long as the process."""
    cuda = driver()
    _enter(device)
    module, function = ctypes.c_void_p(), ctypes.c_void_p()
    _check(cuda.cuModuleLoadData(ctypes.byref(module), binary.cubin), binary.name)
    _check(cuda.cuModuleGetFunction(ctypes.byref(function), module, binary.name.encode()), binary.name)
    if binary.shared > DEFAULT_SHARED:
        _check(cuda.cuFuncSetCacheConfig(function, 1), binary.name)  # more shared memory, less L1
        _check(cuda.cuFuncSetAttribute(function, 8, binary.shared), binary.name)  # most dynamic shared memory
    return function.value or 0


def _enter(device: int) -> None:
    """Make the context that torch uses current on this thread, as torch's own first launch on it would."""
    context = ctypes.c_void_p()
    _check(driver().cuDevicePrimaryCtxRetain(ctypes.byref(context), device), "cuDevicePrimaryCtxRetain")
    _check(driver().cuCtxSetCurrent(context), "cuCtxSetCurrent")


def _check(status: int, what: str) -> None:
    """Raise what the driver reports.

    Raises:
        RuntimeError: the driver's status is not 0.
    """
    if status:
        text = ctypes.c_char_p()
        driver().cuGetErrorString(status, ctypes.byref(text))
        raise RuntimeError(f"{what}: CUDA error {status}, {(text.value or b'unknown').decode()}")
