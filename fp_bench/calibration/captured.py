"""A model's attention calls on a text, captured while a calibration runs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from fp_bench.errors import UnsupportedError
from fp_bench.inputs.captured import Captured
from fp_bench.inputs.source import Shape
from fp_bench.methods.base import AttentionCall, Method
from fp_bench.models.capture import capture


@contextmanager
def captured_model(
    model: str,
    lengths: Sequence[int],
    *,
    layers: Sequence[int] | None = None,
    text: str | None,
    seed: int,
    device: torch.device,
    dtype: torch.dtype,
) -> Iterator[Captured]:
    """Capture Q, K, V of a model's layers; they are gone afterwards. Arguments and errors: `capture`."""
    with TemporaryDirectory(prefix="fpbench-calibrate-") as folder:
        out = Path(folder) / "capture"
        capture(model, lengths, out, layers=layers, text=text, seed=seed, device=device, dtype=dtype)
        yield Captured(out)


def captured_calls(source: Captured, device: torch.device, dtype: torch.dtype, method: Method) -> list[AttentionCall]:
    """Return the calls of every length and layer of a capture.

    Raises:
        UnsupportedError: one that the method, for which they are, does not run.
    """
    calls = [
        _call(source, length, layer, device, dtype) for length in source.manifest.lengths for layer in source.layers()
    ]
    for call in calls:
        if (reason := method.unsupported(call)) is not None:
            raise UnsupportedError(f"{method.name} does not run on {source.manifest.model}: {reason}")
    return calls


def _call(source: Captured, length: int, layer: int, device: torch.device, dtype: torch.dtype) -> AttentionCall:
    have = source.manifest
    shape = Shape(have.batch, length, have.q_heads, have.kv_heads, have.head_dim)
    q, k, v = source.tensors(shape, layer=layer, seed=0, dtype=dtype, device=device)
    return AttentionCall(q, k, v, scale=have.head_dim**-0.5, layer=layer, layers=have.model_layers)
