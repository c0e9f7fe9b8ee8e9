"""Weights and what the optimiser remembers, in files that are small enough to travel."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

SHARD = 15 * 2**20
"""Bytes of a file, at most."""


def shards(tensors: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """Share tensors out over files."""
    files: list[dict[str, Tensor]] = []
    sizes: list[int] = []
    for name, tensor in sorted(tensors.items(), key=lambda each: -each[1].nbytes):
        place = next((i for i, size in enumerate(sizes) if size + tensor.nbytes <= SHARD - 2**16), len(files))
        if place == len(files):
            files.append({})
            sizes.append(0)
        files[place][name] = tensor.detach().cpu().contiguous()
        sizes[place] += tensor.nbytes
    return files


def save(folder: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, str | int]) -> None:
    """Write a checkpoint; what was there before is replaced once all of it is written."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    metadata = {"facts": json.dumps(dict(facts))}
    for number, shard in enumerate(shards(tensors), start=1):
        path = folder / f"checkpoint-{number}.safetensors"
        save_file(shard, path.with_suffix(".part"), metadata={**metadata, "format": "pt"})
        written.append(path)
    for path in written:
        path.with_suffix(".part").replace(path)
    for path in set(_files(folder)) - set(written):
        path.unlink()


def exists(folder: Path) -> bool:
    """Return whether there is a checkpoint."""
    return bool(_files(folder))


def load(folder: Path) -> tuple[dict[str, Tensor], dict[str, str | int]]:
    """Return the tensors of a checkpoint and the facts that were saved with it.

    Raises:
        ValueError: its files are of different steps.
    """
    tensors: dict[str, Tensor] = {}
    found = set()
    for path in _files(folder):
        with safe_open(path, framework="pt") as file:
            found.add(file.metadata()["facts"])
            tensors |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if len(found) != 1:
        raise ValueError(f"{folder} holds files of {len(found)} checkpoints")
    return tensors, json.loads(found.pop())


def restore(into: Iterable[tuple[str, Tensor]], tensors: Mapping[str, Tensor]) -> None:
    """Copy tensors into others of the same names.

    Raises:
        ValueError: one is missing.
    """
    with torch.no_grad():
        for name, tensor in into:
            if name not in tensors:
                raise ValueError(f"the checkpoint has no {name}")
            tensor.copy_(tensors[name])


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("checkpoint-*.safetensors"))
