"""Hugging Face models by name or folder, and the embedded one."""

from pathlib import Path
from typing import Any

import torch

from fp_bench.errors import UnavailableError
from fp_bench.models import embedded

EMBEDDED = "embedded"


def load_model(name: str, *, device: torch.device, dtype: torch.dtype, attention: str = "sdpa") -> tuple[Any, Any]:
    """Load a causal language model and its tokenizer; code from a model's repository is never run.

    Args:
        name: ``embedded``, a folder, or a repository of the Hugging Face hub.
        device: where the weights go.
        dtype: of weights and activations.
        attention: an attention function that transformers knows or that was registered there.

    Returns:
        The model in evaluation mode, and its tokenizer.

    Raises:
        UnavailableError: it cannot be found, fetched or read.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = embedded.path() if name == EMBEDDED else name
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        model = AutoModelForCausalLM.from_pretrained(
            source, dtype=dtype, attn_implementation=attention, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UnavailableError(f"model {name!r} cannot be loaded: {reason}") from None
    return model.to(device).eval(), tokenizer


def model_label(name: str) -> str:
    """Return the name as records carry it: that of a folder without its path."""
    folder = Path(name)
    return folder.resolve().name if folder.is_dir() else name
