"""Compile a Triton kernel for a chip that is not here, and read what the compiler says of it."""

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Compiled:
    shared_bytes: int
    registers: int | None
    spill_bytes: int | None
    assembly: str


def compile_kernel(kernel, signature: dict[str, str], constants: dict[str, object], *, target, num_warps: int):
    """Compile ``kernel`` with every pointer and every size or stride assumed divisible by 16, as in real use."""
    import triton
    from triton.compiler import ASTSource

    names = list(kernel.arg_names)
    full = {name: "constexpr" if name in constants else signature[name] for name in names}
    aligned = {
        (position,): [["tt.divisibility", 16]]
        for position, name in enumerate(names)
        if full[name].startswith("*") or name.startswith("stride_")
    }
    constexprs = {(names.index(name),): value for name, value in constants.items()}
    source = ASTSource(fn=kernel, signature=full, constexprs=constexprs, attrs=aligned)
    compiled = triton.compile(source, target=target, options={"num_warps": num_warps})
    registers = spills = None
    if target.backend == "cuda":
        registers, spills = _resource_usage(compiled.asm["cubin"])
    assembly = compiled.asm.get("ptx") or compiled.asm.get("amdgcn")
    return Compiled(compiled.metadata.shared, registers, spills, assembly)


def _resource_usage(cubin: bytes) -> tuple[int, int]:
    import triton.backends.nvidia as nvidia

    tool = Path(nvidia.__file__).parent / "bin" / "cuobjdump"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        text = subprocess.run([tool, "-res-usage", path], capture_output=True, text=True, check=True).stdout
    match = re.search(r"REG:(\d+) STACK:(\d+)", text)
    assert match, text
    return int(match[1]), int(match[2])
