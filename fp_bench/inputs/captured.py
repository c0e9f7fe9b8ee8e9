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
    """What a capture holds: one file for each length and layer, with tensors ``q``, ``k`` and ``v``.

    The tensors are ``[batch, length, heads, head_dim]`` after rotary embedding, KV heads not repeated, and are to be
    used with the scale ``head_dim ** -0.5``: where the model has another one, q carries the ratio.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    model: str
    text: str
    """What was read: the hash of a text, or how it was generated."""
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
    """Reads a capture; what was captured decides heads and head_dim.

    Args:
        folder: written by ``fpbench capture``.

    Raises:
        UsageError: no such folder, or its manifest is missing or of another make.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = _read_manifest(folder)
        content = hashlib.sha256(self.manifest.model_dump_json().encode()).hexdigest()
        self.name = f"captured:{folder.resolve().name}@{content[:8]}"

    def layers(self) -> list[int]:
        """Return the captured layers."""
        return self.manifest.layers

    def shapes(self, asked: Shape) -> Shape:
        """Return the captured heads at the asked length.

        Raises:
            UsageError: a length or batch that was not captured.
        """
        have = self.manifest
        if asked.seq_len not in have.lengths:
            lengths = ", ".join(map(str, have.lengths))
            raise UsageError(f"length {asked.seq_len} is not in capture {self.folder.name}; it has {lengths}")
        if asked.batch != have.batch:
            raise UsageError(f"batch {asked.batch} is not in capture {self.folder.name}; it has {have.batch}")
        return Shape(have.batch, asked.seq_len, have.q_heads, have.kv_heads, have.head_dim)

    def tensors(self, shape: Shape, *, layer: int, seed: int, dtype: torch.dtype, device: torch.device) -> QKV:
        """Read the tensors of one layer; every seed gives the same.

        Raises:
            UsageError: a layer that was not captured, or a file that is missing, damaged or not of this capture.
        """
        del seed
        if layer not in self.manifest.layers:
            layers = ", ".join(map(str, self.manifest.layers))
            raise UsageError(f"layer {layer} is not in capture {self.folder.name}; it has {layers}")
        shape = self.shapes(shape)
        path = self._checked(file_name(shape.seq_len, layer))
        try:
            with safe_open(path, framework="pt", device="cpu") as file:
                qkv = QKV(*(file.get_tensor(name) for name in QKV._fields))
        except SafetensorError as error:
            raise UsageError(f"capture file {path.name} cannot be read ({error}); capture again") from None
        for name, tensor, heads in zip(QKV._fields, qkv, (shape.q_heads, shape.kv_heads, shape.kv_heads), strict=True):
            expected = (shape.batch, shape.seq_len, heads, shape.head_dim)
            if tensor.shape != expected:
                raise UsageError(f"{name} in {path.name} is {list(tensor.shape)}, the manifest says {list(expected)}")
        return QKV(*(tensor.to(device, dtype) for tensor in qkv))

    def given_index(self, shape: Shape, *, seed: int, device: torch.device) -> BlockIndex | None:
        """Return None: what to keep is the method's decision."""
        del shape, seed, device
        return None

    def _checked(self, name: str) -> Path:
        """Return the path of a file after comparing its hash with the manifest's."""
        path = self.folder / name
        if not path.is_file():
            raise UsageError(f"capture {self.folder.name} lacks {name}; capture again")
        if file_hash(path) != self.manifest.files.get(name):
            raise UsageError(f"capture file {name} is not what the manifest says, cut short or replaced; capture again")
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
        raise UsageError(f"{path} cannot be used: {where}: {first['msg']}; capture again") from None
