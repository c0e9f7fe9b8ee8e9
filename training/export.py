"""The trained model as stock transformers load it."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from training.checkpoint import shards
from training.model import Retriever, configuration
from training.tokenizer import BOS, CONTEXT, EOS, PAD, Vocabulary

SPECIAL = {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD}


def export(model: Retriever, vocabulary: Vocabulary, folder: Path) -> None:
    """Write configuration, tokenizer and bfloat16 weights; weights that were in the folder go."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("model*.safetensors*"):
        old.unlink()
    files = shards({name: weight.to(torch.bfloat16) for name, weight in model.named().items()})
    names = {f"model-{i:05d}-of-{len(files):05d}.safetensors": file for i, file in enumerate(files, start=1)}
    for name, file in names.items():
        save_file(file, folder / name, metadata={"format": "pt"})
    size = sum(tensor.nbytes for file in files for tensor in file.values())
    _write(
        folder / "model.safetensors.index.json",
        {"metadata": {"total_size": size}, "weight_map": {key: name for name, file in names.items() for key in file}},
    )
    _write(folder / "config.json", configuration(model.shape, SPECIAL, CONTEXT))
    _write(folder / "generation_config.json", {**SPECIAL, "do_sample": False})
    vocabulary.save(folder)


def _write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n")
