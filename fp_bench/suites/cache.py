"""Cache of written samples: one gzip file with one line of JSON per sample.

Separate files have three advantages: each is complete or absent, workers may write the same one, and a
sample is found without reading earlier ones. The cache never fails a run: unreadable files are written again,
and a failed write is ignored.
"""

import contextlib
import gzip
import hashlib
import json
import os
import tempfile
import zlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fp_bench.suites.sample import Sample
from fp_bench.suites.suite import Suite, Tokenizer

VARIABLE = "FP_BENCH_CACHE"


def cache_folder() -> Path:
    """Return ``$FP_BENCH_CACHE``, else ``~/.cache/fp_bench``."""
    return Path(os.environ.get(VARIABLE) or Path.home() / ".cache" / "fp_bench")


class SampleCache:
    """The samples of one suite, task, length, tokenizer, seed and data.

    Args:
        suite: its name, variant and version are part of the key.
        task: of the suite.
        length: tokens asked for.
        tokenizer: its fingerprint is part of the key.
        seed: of the samples.
        reserved: tokens reserved.
        data: everything else that determines a sample.
    """

    def __init__(
        self,
        suite: Suite,
        task: str,
        length: int,
        tokenizer: Tokenizer,
        seed: int,
        reserved: int,
        data: Mapping[str, str],
    ) -> None:
        key = [suite.version, tokenizer.fingerprint, seed, reserved, sorted(data.items())]
        digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]
        self._folder = cache_folder() / "samples" / suite.full_name() / task / f"{length}-{digest}"

    def get(self, index: int) -> Sample | None:
        """Return a sample, or None if it is missing or its file is damaged."""
        try:
            found: dict[str, Any] = json.loads(gzip.decompress(self._path(index).read_bytes()))
            # JSON has no tuples.
            fields: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in found.items()}
            return Sample(**fields)
        except (OSError, EOFError, ValueError, TypeError, AttributeError, zlib.error):
            return None

    def put(self, index: int, sample: Sample) -> None:
        """Save a sample atomically."""
        data = gzip.compress(json.dumps(asdict(sample)).encode() + b"\n", compresslevel=1, mtime=0)
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self._folder)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(data)
                os.replace(name, self._path(index))
            except BaseException:
                os.unlink(name)
                raise

    def _path(self, index: int) -> Path:
        return self._folder / f"{index}.json.gz"
