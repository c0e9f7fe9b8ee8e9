"""Hugging Face models by name or folder, and the embedded one."""

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import torch

from fp_bench.errors import UnavailableError, UsageError, first_line
from fp_bench.models import embedded

EMBEDDED = "embedded"
RANDOM = "random:"
"""Before a folder or repository: its configuration with weights drawn at random, to be timed and nothing else."""
WEIGHTS, WEIGHTS_READ = (".safetensors", ".bin"), 65536
"""Files of weights, and the bytes in the middle of each that tell one from another."""


def model_config(name: str) -> Any:
    """Return the configuration of a model's text part.

    Raises:
        UnavailableError: it cannot be found, fetched or read.
    """
    from transformers import AutoConfig

    with _or_unavailable(name):
        config = AutoConfig.from_pretrained(model_source(name.removeprefix(RANDOM)), trust_remote_code=False)
    return config.get_text_config()


class ModelFacts(NamedTuple):
    """What is known of a model before its weights are loaded."""

    tokenizer: Any
    layers: int
    positions: int | None
    """Tokens it can read; None where its configuration does not say."""


def model_facts(name: str) -> ModelFacts:
    """Return a model's tokenizer and what its configuration says.

    Raises:
        UsageError: a model with random weights.
        UnavailableError: it cannot be found, fetched or read.
    """
    from transformers import AutoTokenizer

    if name.startswith(RANDOM):
        raise UsageError(f"model {name!r} has random weights and no answers; give one with weights")
    with _or_unavailable(name):
        tokenizer = AutoTokenizer.from_pretrained(model_source(name), trust_remote_code=False)
    config = model_config(name)
    return ModelFacts(tokenizer, config.num_hidden_layers, getattr(config, "max_position_embeddings", None))


def load_model(
    name: str, *, device: torch.device, dtype: torch.dtype, attention: str = "sdpa", spread: bool = False
) -> tuple[Any, Any]:
    """Load a causal language model and its tokenizer; code from a model's repository is never run.

    Args:
        name: ``embedded``, a folder, a repository of the Hugging Face hub, or ``random:`` and one of these.
        device: where the weights go.
        dtype: of weights and activations.
        attention: an attention function that transformers knows or that was registered there.
        spread: put layers on all visible GPUs in turn instead (``device_map``), for models larger than one.

    Returns:
        The model in evaluation mode, and its tokenizer; None with random weights.

    Raises:
        UnavailableError: it cannot be found, fetched or read.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if name.startswith(RANDOM):
        return _random_model(name.removeprefix(RANDOM), device, dtype, attention), None
    with _or_unavailable(name):
        tokenizer = AutoTokenizer.from_pretrained(model_source(name), trust_remote_code=False)
        model = AutoModelForCausalLM.from_pretrained(
            model_source(name),
            dtype=dtype,
            attn_implementation=attention,
            trust_remote_code=False,
            device_map="auto" if spread else None,
        )
    return (model if spread else model.to(device)).eval(), tokenizer


def _random_model(name: str, device: torch.device, dtype: torch.dtype, attention: str) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    with _or_unavailable(name):
        config = AutoConfig.from_pretrained(model_source(name), trust_remote_code=False)
    torch.manual_seed(0)
    with device:
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention)
    return model.to(device).eval()


def model_source(name: str) -> str | Path:
    """Return the folder or repository that a name stands for."""
    return embedded.path() if name == EMBEDDED else name


@contextmanager
def _or_unavailable(name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        raise UnavailableError(f"model {name!r} cannot be loaded: {first_line(error)}") from None


def model_label(name: str, engine: str = "hf") -> str:
    """Return the name as records carry it: of a folder its own and what is in it; and an engine that is not hf.

    A folder of weights is ``NAME@`` eight digits, so that two checkpoints of one name are two models. Records of two
    engines are never rows of one table: whatever else the engines do differs too.
    """
    if engine != "hf":
        return f"{model_label(name)}@{engine}"
    if name.startswith(RANDOM):
        folder = Path(name.removeprefix(RANDOM))
        return RANDOM + (folder.resolve().name if folder.is_dir() else str(folder))
    if not (folder := Path(name)).is_dir():
        return name
    return f"{folder.resolve().name}@{_fingerprint(folder)}"


def _fingerprint(folder: Path) -> str:
    """Return eight digits of a folder's configuration, and of its weights' names, sizes and a part of each."""
    found = sha256()
    for path in sorted(folder.iterdir()):
        if path.name == "config.json":
            found.update(path.read_bytes())
        elif path.suffix in WEIGHTS:
            size = path.stat().st_size
            with path.open("rb") as file:
                file.seek(size // 2)
                found.update(f"{path.name} {size} ".encode() + file.read(WEIGHTS_READ))
    return found.hexdigest()[:8]
