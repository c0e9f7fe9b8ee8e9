"""Hugging Face models by name or folder, and the embedded one."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from fp_bench.errors import UnavailableError
from fp_bench.models import embedded

EMBEDDED = "embedded"


class ModelFacts(NamedTuple):
    """What is known of a model before its weights are loaded."""

    tokenizer: Any
    layers: int
    positions: int | None
    """Tokens it can read; None where its configuration does not say."""


def model_facts(name: str) -> ModelFacts:
    """Return a model's tokenizer and what its configuration says.

    Raises:
        UnavailableError: it cannot be found, fetched or read.
    """
    from transformers import AutoConfig, AutoTokenizer

    with _or_unavailable(name):
        tokenizer = AutoTokenizer.from_pretrained(_source(name), trust_remote_code=False)
        config = AutoConfig.from_pretrained(_source(name), trust_remote_code=False).get_text_config()
    return ModelFacts(tokenizer, config.num_hidden_layers, getattr(config, "max_position_embeddings", None))


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

    with _or_unavailable(name):
        tokenizer = AutoTokenizer.from_pretrained(_source(name), trust_remote_code=False)
        model = AutoModelForCausalLM.from_pretrained(
            _source(name), dtype=dtype, attn_implementation=attention, trust_remote_code=False
        )
    return model.to(device).eval(), tokenizer


def _source(name: str) -> str | Path:
    return embedded.path() if name == EMBEDDED else name


@contextmanager
def _or_unavailable(name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UnavailableError(f"model {name!r} cannot be loaded: {reason}") from None


def model_label(name: str) -> str:
    """Return the name as records carry it: that of a folder without its path."""
    folder = Path(name)
    return folder.resolve().name if folder.is_dir() else name
