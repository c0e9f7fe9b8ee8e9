"""Capture Q, K, V of a model's attention layers while it reads a text, for ``--inputs captured:FOLDER``."""

import hashlib
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from fp_bench.errors import UnsupportedError, UsageError
from fp_bench.inputs.captured import MANIFEST, CaptureManifest, file_hash, file_name
from fp_bench.models.load import load_model, model_label
from fp_bench.models.loading.silence import no_progress_bars
from fp_bench.models.spec import positions
from fp_bench.models.written_prompt import first_tokens, needle_prompt
from fp_bench.records.files import replace_file

ATTENTION = "fp_bench_capture"
"""The attention function's name in transformers; a name with "flash" would be treated as a flash kernel."""


def capture(
    model: str,
    lengths: Iterable[int],
    out: Path,
    *,
    layers: Sequence[int] | None = None,
    text: str | None = None,
    seed: int = 0,
    device: torch.device,
    dtype: torch.dtype,
) -> CaptureManifest:
    """Run prefill at each length and save the arguments of the layers' attention.

    Files are written layer by layer and the manifest last, so an interrupted capture is never used.

    Args:
        model: ``embedded``, a folder or a hub repository.
        lengths: tokens of each prefill; a length reads the first tokens of the text.
        out: folder to write; an earlier capture in it is replaced.
        layers: which layers to save; None for all.
        text: the text to read; None: prompts for the embedded model.
        seed: seed of the generated prompts.
        device: device of the model.
        dtype: of the model and the saved tensors.

    Returns:
        The written manifest.

    Raises:
        UsageError: a text that is too short, an unknown layer, a length beyond the model's positions, or a folder that
            holds other files.
        UnsupportedError: attention that a dense causal call does not define: windows, soft caps, sinks.
        UnavailableError: the model cannot be loaded.
    """
    from transformers import AttentionInterface

    _check_folder(out)
    if not sys.stderr.isatty():
        no_progress_bars()
    recorder = _Recorder(out)
    AttentionInterface.register(ATTENTION, recorder)
    network, tokenizer = load_model(model, device=device, dtype=dtype, attention=ATTENTION)
    config = network.config.get_text_config()
    lengths = sorted(set(lengths))
    _check_lengths(lengths, positions(config))
    recorder.layers = _checked_layers(layers, config.num_hidden_layers)
    prompts = {length: _tokens(tokenizer, text, length, seed) for length in lengths}
    _clear(out)
    for ids in prompts.values():
        recorder.prefill(network, ids.to(device))
    manifest = CaptureManifest(
        model=model_label(model),
        text=f"generated:seed={seed}" if text is None else f"sha256:{hashlib.sha256(text.encode()).hexdigest()[:12]}",
        lengths=lengths,
        layers=recorder.layers,
        model_layers=config.num_hidden_layers,
        batch=1,
        q_heads=recorder.heads[0],
        kv_heads=recorder.heads[1],
        head_dim=recorder.heads[2],
        dtype=str(dtype).removeprefix("torch."),
        files=recorder.files,
    )
    replace_file(out / MANIFEST, manifest.model_dump_json(indent=1).encode())
    return manifest


class _Recorder:
    """An attention function for transformers: causal SDPA that saves its inputs in the wanted layers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.layers: list[int] = []
        self.heads = (0, 0, 0)
        """Query heads, KV heads, head_dim; of every saved layer."""
        self.files: dict[str, str] = {}

    @torch.no_grad()
    def prefill(self, network: Any, ids: Tensor) -> None:
        """Run the model without its output head over ``ids`` ``[1, length]``."""
        network.base_model(input_ids=ids, use_cache=False)
        for layer in self.layers:
            if file_name(ids.shape[1], layer) not in self.files:
                raise UnsupportedError(f"layer {layer} is not an attention layer that transformers lets replace")

    def __call__(
        self,
        module: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        *,
        scaling: float | None = None,
        sliding_window: int | None = None,
        softcap: float | None = None,
        s_aux: Tensor | None = None,
        **_: Any,
    ) -> tuple[Tensor, None]:
        """Compute attention of ``[1, heads, length, head_dim]`` tensors in transformers' form."""
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        length = query.shape[2]
        extras = {"window": sliding_window is not None and sliding_window < length, "soft cap": softcap, "sinks": s_aux}
        for what, given in extras.items():
            if given is not None and given is not False:
                raise UnsupportedError(f"layer {module.layer_idx} has attention with a {what}; plain causal only")
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        if module.layer_idx in self.layers:
            self._save(module.layer_idx, query * (scale * query.shape[-1] ** 0.5), key, value)
        output, _weights = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scale, is_causal=True
        )
        return output, None

    def _save(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> None:
        heads = (query.shape[1], key.shape[1], query.shape[3])
        if key.shape != value.shape or (self.files and heads != self.heads):
            raise UnsupportedError(
                f"layer {layer} has q {list(query.shape)}, k {list(key.shape)}, v {list(value.shape)}; "
                "one capture holds layers of one shape: name them with --layers"
            )
        self.heads = heads
        tensors = {"q": query, "k": key, "v": value}
        path = self.folder / file_name(query.shape[2], layer)
        save_file({name: tensor.transpose(1, 2).contiguous().cpu() for name, tensor in tensors.items()}, path)
        self.files[path.name] = file_hash(path)


def _tokens(tokenizer: Any, text: str | None, length: int, seed: int) -> Tensor:
    """Return ``[1, length]`` token ids.

    Raises:
        UsageError: the text has fewer.
    """
    if text is None:
        text = needle_prompt(tokenizer, length, seed).text
    return torch.tensor([first_tokens(tokenizer, text, length)])


def _check_lengths(lengths: list[int], positions: int | None) -> None:
    if not lengths:
        raise UsageError("no lengths to capture; give at least one, e.g. 4k")
    if positions is not None and lengths[-1] > positions:
        raise UsageError(f"length {lengths[-1]} exceeds the model's {positions} positions")


def _checked_layers(layers: Sequence[int] | None, count: int) -> list[int]:
    wanted = sorted(set(range(count) if layers is None else layers))
    if not wanted:
        raise UsageError("no layers to capture; name at least one")
    for layer in wanted:
        if not 0 <= layer < count:
            raise UsageError(f"layer {layer} is not in 0..{count - 1}")
    return wanted


def _check_folder(folder: Path) -> None:
    """Refuse a folder with files that no capture wrote."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; name a folder to capture into")
    foreign = [path.name for path in folder.glob("*") if not _is_ours(path)]
    if foreign:
        raise UsageError(f"folder {folder} holds files that are not a capture ({foreign[0]}); name another folder")


def _clear(folder: Path) -> None:
    """Make the folder, and remove an earlier capture, its manifest first, so that no partial capture is used."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(filter(_is_ours, folder.iterdir()), key=lambda path: path.name != MANIFEST):
        path.unlink()


def _is_ours(path: Path) -> bool:
    return (
        path.is_file()
        and re.fullmatch(rf"len\d+_layer\d+\.safetensors|{re.escape(MANIFEST)}(\.new)?", path.name) is not None
    )
