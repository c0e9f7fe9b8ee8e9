"""Which blocks a selection kept, small enough to store beside the records and to draw."""

import io
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile, ZipFile

import numpy as np
from numpy.typing import NDArray

from fp_bench.records.files import replace_file

FOLDER = "maps"
LARGEST = 2**26
"""Bytes of the maps of a cell, unpacked."""


@dataclass(frozen=True)
class KeptMap:
    """One head: the kept share of the causal block pairs in each cell of a coarse grid."""

    head: int
    density: float
    """Of the whole head."""
    share: NDArray[np.uint8]
    """``[rows, columns]``, 0 to 255: query blocks down, key blocks across."""


def map_path(folder: Path, cell_key: str, code_version: str) -> Path:
    """Return where a run folder has the maps of a cell."""
    return folder / FOLDER / f"{cell_key}-{code_version.rpartition('+')[2]}.npz"


def write_maps(path: Path, maps: Sequence[KeptMap]) -> None:
    """Write maps atomically: after a kill all of them exist or none.

    Raises:
        OSError: the disk refuses.
    """
    packed = io.BytesIO()
    np.savez_compressed(
        packed,
        head=np.array([one.head for one in maps]),
        density=np.array([one.density for one in maps]),
        share=np.stack([one.share for one in maps]),
    )
    path.parent.mkdir(exist_ok=True)
    replace_file(path, packed.getvalue())


def read_maps(path: Path) -> list[KeptMap]:
    """Return the maps of a cell; an empty list if the file is missing or damaged."""
    try:
        with ZipFile(path) as archive:
            if sum(member.file_size for member in archive.infolist()) > LARGEST:
                return []
        with np.load(path, allow_pickle=False) as packed:
            heads, densities, shares = packed["head"], packed["density"], packed["share"]
            if shares.ndim != 3 or shares.dtype != np.uint8 or 0 in shares.shape:
                return []
            columns = zip(heads, densities, shares, strict=True)
            return [KeptMap(int(head), float(density), share) for head, density, share in columns]
    except (OSError, ValueError, TypeError, KeyError, EOFError, MemoryError, BadZipFile, zlib.error):
        return []
