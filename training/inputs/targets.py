"""What sparse methods keep of real models: from published records, and from captures measured here.

`targets.json` beside this file holds one entry for each model, text, length and method, and where it comes from.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, TypeAdapter

from fp_bench.inputs.captured import Captured
from fp_bench.inputs.source import QKV, Shape
from fp_bench.methods.base import AttentionCall
from fp_bench.records.record import AccuracyRecord
from fp_bench.records.store import read_run
from training.inputs.observe import Kept, mean_kept, observe

FILE = Path(__file__).with_name("targets.json")
MODEL = "qwen2.5-coder-1.5b-instruct-q4_k_m"
"""Whose heads structured inputs are to be like; others are captured to see how far models differ."""
METHODS = (
    "flashprefill:alpha=0.03", "flashprefill:alpha=0.05", "flashprefill:alpha=0.06", "flashprefill",
    "flashprefill:alpha=0.25", "flashprefill:alpha=0.33", "flashprefill:alpha=0.5", "flashprefill_v2",
    "xattention:tau=0.8", "xattention", "flexprefill", "flexprefill:gamma=0.95", "minference", "streaming",
    "streaming:n_local=1920",
)  # fmt: skip
"""What captures are measured with."""
FURTHER = (
    "flashprefill:alpha=0.0292", "flashprefill_v2:alpha=0.0844", "xattention:tau=0.906", "flexprefill:gamma=0.932",
)  # fmt: skip
"""Settings that published records alone have."""


class Target(BaseModel):
    """What a method keeps of one model on one text, mean over its heads and layers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    text: str
    length: int
    """Tokens."""
    method: str
    """As on the command line."""
    density: float
    """Share of the causal pairs; in records of older code, of block pairs."""
    recall: float
    samples: int
    """Prompts, each with all layers of the records' model or some of a capture's."""
    source: str
    """Folder of the records, or which layers of a capture."""


_LIST = TypeAdapter(list[Target])


def read_targets(path: Path = FILE) -> list[Target]:
    """Read a file of targets."""
    return _LIST.validate_json(path.read_bytes())


def write_targets(targets: Sequence[Target], path: Path = FILE) -> None:
    """Write a file of targets, a line each."""
    lines = ",\n".join(target.model_dump_json() for target in targets)
    path.write_text(f"[\n{lines}\n]\n")


def of_records(run: Path, text: str) -> list[Target]:
    """Return what methods kept while a model read, from the accuracy records of a published run.

    Args:
        run: folder of the records.
        text: what the model read.
    """
    found: dict[tuple[str, int, str], list[Kept]] = defaultdict(list)
    for record in read_run(run).records:
        if not (isinstance(record, AccuracyRecord) and record.label in (*METHODS, *FURTHER)):
            continue
        if record.status == "ok" and record.density is not None and record.recall is not None:
            found[record.model, record.seq_len, record.label].append(Kept(record.density, record.recall))
    where = "/".join(run.parts[-3:])
    return [
        _target(model, text, length, method, kept, where) for (model, length, method), kept in sorted(found.items())
    ]


def of_capture(folder: Path, text: str, lengths: Iterable[int]) -> list[Target]:
    """Measure the methods on a capture's layers; a shorter length is the start of the captured one.

    Args:
        folder: written by ``fpbench capture``.
        text: what the model read.
        lengths: tokens.
    """
    source = Captured(folder)
    have = source.manifest
    longest = max(have.lengths)
    shape = Shape(1, longest, have.q_heads, have.kv_heads, have.head_dim)
    kept: dict[tuple[int, str], list[Kept]] = defaultdict(list)
    for layer in have.layers:
        whole = source.tensors(shape, layer=layer, seed=0, dtype=torch.float32, device=torch.device("cpu"))
        for length in lengths:
            start = QKV(*(tensor[:, :length] for tensor in whole))
            call = AttentionCall(*start, scale=have.head_dim**-0.5, layer=layer, layers=have.model_layers)
            for method, one in observe(call, METHODS).items():
                kept[length, method].append(one)
    layers = f"capture, layers {', '.join(map(str, have.layers))}"
    return [
        _target(have.model, text, length, method, each, layers, samples=1) for (length, method), each in kept.items()
    ]


def _target(
    model: str, text: str, length: int, method: str, kept: list[Kept], source: str, samples: int | None = None
) -> Target:
    mean = mean_kept(kept)
    return Target(
        model=Path(model.partition("@")[0]).name.removesuffix(".gguf").lower(),
        text=text,
        length=length,
        method=method,
        density=round(mean.density, 4),
        recall=round(mean.recall, 4),
        samples=samples or len(kept),
        source=source,
    )


def wanted(
    targets: Iterable[Target], lengths: Iterable[int], methods: Iterable[str], model: str = MODEL
) -> dict[tuple[int, str], Kept]:
    """Return by length and method what a model lets the methods keep: the mean over texts, each of its sources."""
    lengths, methods = set(lengths), set(methods)
    by_text: dict[tuple[int, str], dict[str, list[Kept]]] = defaultdict(lambda: defaultdict(list))
    for one in targets:
        if one.model == model and one.length in lengths and one.method in methods:
            by_text[one.length, one.method][one.text].append(Kept(one.density, one.recall))
    return {cell: mean_kept(map(mean_kept, texts.values())) for cell, texts in by_text.items()}
