"""Samples that were written before, on disk: one gzip file of one line of JSON each.

A file a sample instead of one for all: each is whole or absent, workers that write the same one do no harm, and a
sample is found without reading those before it. Nothing here ever fails a run: what cannot be read is written again,
what cannot be written is done without.
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
        suite: whose name, variant and version count.
        task: of the suite.
        length: tokens asked for.
        tokenizer: whose fingerprint counts.
        seed: of the samples.
        reserved: tokens reserved.
        data: whatever else decides what a sample says.
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
        """Return a sample, or None when it is not here or its file is broken."""
        try:
            found: dict[str, Any] = json.loads(gzip.decompress(self._path(index).read_bytes()))
            # JSON has no tuples.
            fields: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in found.items()}
            return Sample(**fields)
        except (OSError, EOFError, ValueError, TypeError, AttributeError, zlib.error):
            return None

    def put(self, index: int, sample: Sample) -> None:
        """Keep a sample, in one step: readers see all of it or nothing."""
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
