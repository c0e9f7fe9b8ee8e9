"""Checks a model's configuration before anything is built from it, because folders may come from strangers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fp_bench.errors import UnavailableError

CONFIG = "config.json"
LARGEST = 2**22
"""Bytes."""
LIMITS = {
    "num_hidden_layers": (1, 10_000),
    "num_attention_heads": (1, 2**16),
    "num_key_value_heads": (1, 2**16),
    "head_dim": (1, 2**14),
    "hidden_size": (1, 2**20),
    "vocab_size": (1, 2**26),
    "max_position_embeddings": (1, 2**40),
}
"""Limits of sizes in configurations; real models are far below."""
TEXT = ("text_config", "llm_config", "language_config")
"""Keys of the text part's configuration in multimodal models."""


def check_folder(folder: Path) -> None:
    """Refuse a folder with an impossible configuration, before transformers builds lists of its sizes.

    Raises:
        UnavailableError: one line that names the file, and the key with its value and limits.
    """
    path = folder / CONFIG
    if not path.is_file():
        return  # transformers says what it misses
    try:
        with path.open("rb") as file:
            text = file.read(LARGEST + 1)
        if len(text) > LARGEST:
            raise UnavailableError(f"{path} is larger than {LARGEST} bytes")
        config = json.loads(text)
    except OSError as error:
        raise UnavailableError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UnavailableError(f"{path} is not JSON: {str(error)[:100]}") from None
    if not isinstance(config, dict):
        raise UnavailableError(f"{path} is not a configuration: it is {type(config).__name__}, not an object")
    for part in (config, *(config[name] for name in TEXT if isinstance(config.get(name), dict))):
        check_numbers(str(path), part.get)


def check_numbers(what: str, of: Callable[[str], Any]) -> None:
    """Refuse numbers out of `LIMITS`.

    Args:
        what: their owner, for the message.
        of: returns the value of a key, None if it is missing; lists (one number per layer) are not checked.

    Raises:
        UnavailableError: the first of them.
    """
    for name, (low, high) in LIMITS.items():
        value = of(name)
        if value is None or isinstance(value, list | tuple):
            continue
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise UnavailableError(f"{what}: {name} {str(value)[:40]!r} is not a whole number from {low} to {high}")
    heads, shared = of("num_attention_heads"), of("num_key_value_heads")
    if isinstance(heads, int) and isinstance(shared, int) and heads % shared:
        raise UnavailableError(f"{what}: {heads} query heads are not a multiple of {shared} KV heads")
