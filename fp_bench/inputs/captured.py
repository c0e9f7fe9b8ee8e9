"""Q, K, V captured from a model: a folder of safetensors files with a manifest.

Nothing in the folder is executed or unpickled. A record names the folder and a hash of its content, so that records of
different captures are never compared.
"""

import hashlib
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open

from fp_bench.errors import UsageError
from fp_bench.inputs.source import QKV, Shape
from fp_bench.kernels.block_index import BlockIndex

MANIFEST = "capture.json"


class CaptureManifest(BaseModel):
    """Content of a capture: one file for each length and layer, with tensors ``q``, ``k`` and ``v``.

    The tensors are ``[batch, length, heads, head_dim]`` after rotary embedding, KV heads not repeated. They must be
    used with the scale ``head_dim ** -0.5``; if the model has another one, q includes the ratio.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    model: str
    text: str
    """The text: its hash, or how it was generated."""
    lengths: list[int]
    layers: list[int]
    model_layers: int
    """Layers of the whole model."""
    batch: int
    q_heads: int
    kv_heads: int
    head_dim: int
    dtype: str
    files: dict[str, str]
    """SHA-256 of each file."""


def file_name(length: int, layer: int) -> str:
    """Return the name of the file that holds one layer at one length."""
    return f"len{length}_layer{layer}.safetensors"


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Captured:
    """Reads a capture, which determines heads and head_dim.

    Args:
        folder: written by ``fpbench capture``.
        stack: number of captured layers joined into one call: 12/2/128 stacked three times is 36/6/128,
            the load of a larger model. The call has the number of its first layer; a remainder of layers at the end
            is not used.

    Raises:
        UsageError: no such folder, a missing or foreign manifest, or fewer layers than a stack.
    """

    def __init__(self, folder: Path, stack: int = 1) -> None:
        self.folder = folder
        self.stack = stack
        self.manifest = _read_manifest(folder)
        content = hashlib.sha256(self.manifest.model_dump_json().encode()).hexdigest()
        self.name = f"captured:{folder.resolve().name}@{content[:8]}" + (f":stack={stack}" if stack > 1 else "")
        if not 1 <= stack <= len(self.manifest.layers):
            count = len(self.manifest.layers)
            raise UsageError(f"stack {stack} is not in 1..{count}, the layers of capture {folder.name}")

    def layers(self) -> list[int]:
        """Return the captured layers; of each stack only the first."""
        return [stacked[0] for stacked in self._stacks()]

    def _stacks(self) -> list[list[int]]:
        layers, size = self.manifest.layers, self.stack
        return [layers[start : start + size] for start in range(0, len(layers) - size + 1, size)]

    def shapes(self, asked: Shape) -> Shape:
        """Return the captured heads at the requested length, those of a stack together.

        Raises:
            UsageError: a length or batch that was not captured.
        """
        have = self.manifest
        if asked.seq_len not in have.lengths:
            lengths = ", ".join(map(str, have.lengths))
            raise UsageError(f"length {asked.seq_len} is not in capture {self.folder.name}; it has {lengths}")
        if asked.batch != have.batch:
            raise UsageError(f"batch {asked.batch} is not in capture {self.folder.name}; it has {have.batch}")
        return Shape(have.batch, asked.seq_len, self.stack * have.q_heads, self.stack * have.kv_heads, have.head_dim)

    def tensors(self, shape: Shape, *, layer: int, seed: int, dtype: torch.dtype, device: torch.device) -> QKV:
        """Read the tensors of one layer, or of the stack that begins with it; every seed gives the same.

        Raises:
            UsageError: a layer that was not captured, or a file that is missing, damaged or not of this capture.
        """
        del seed
        stacked = next((layers for layers in self._stacks() if layers[0] == layer), None)
        if stacked is None:
            layers = ", ".join(map(str, self.layers()))
            raise UsageError(f"layer {layer} is not in capture {self.folder.name}; it has {layers}")
        length = self.shapes(shape).seq_len
        # Layer by layer to the device, so that the host never holds a whole stack.
        parts = [QKV(*(each.to(device, dtype) for each in self._layer(length, one))) for one in stacked]
        return parts[0] if len(parts) == 1 else QKV(*(torch.cat(each, dim=2) for each in zip(*parts, strict=True)))

    def _layer(self, length: int, layer: int) -> QKV:
        """Read one layer's tensors as they were saved."""
        have = self.manifest
        path = self._checked(file_name(length, layer))
        try:
            with safe_open(path, framework="pt", device="cpu") as file:
                qkv = QKV(*(file.get_tensor(name) for name in QKV._fields))
        except SafetensorError as error:
            raise UsageError(f"capture file {path.name} cannot be read ({error}); run fpbench capture again") from None
        for name, tensor, heads in zip(QKV._fields, qkv, (have.q_heads, have.kv_heads, have.kv_heads), strict=True):
            expected = (have.batch, length, heads, have.head_dim)
            if tensor.shape != expected:
                raise UsageError(f"{name} in {path.name} is {list(tensor.shape)}, the manifest says {list(expected)}")
        return qkv

    def given_index(self, shape: Shape, *, seed: int, device: torch.device) -> BlockIndex | None:
        """Return None: the method decides what to keep."""
        del shape, seed, device
        return None

    def _checked(self, name: str) -> Path:
        """Return the path of a file after comparing its hash with the manifest's."""
        path = self.folder / name
        if not path.is_file():
            raise UsageError(f"capture {self.folder.name} lacks {name}; run fpbench capture again")
        if file_hash(path) != self.manifest.files.get(name):
            raise UsageError(f"{name} differs from the capture's manifest; run fpbench capture again")
        return path


def _read_manifest(folder: Path) -> CaptureManifest:
    if not folder.is_dir():
        raise UsageError(f"capture folder {folder} does not exist; make it with fpbench capture")
    path = folder / MANIFEST
    if not path.is_file():
        raise UsageError(f"{folder} is not a finished capture: it has no {MANIFEST}")
    try:
        return CaptureManifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "file"
        raise UsageError(f"{path} cannot be used: {where}: {first['msg']}; run fpbench capture again") from None
