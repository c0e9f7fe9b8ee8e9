"""The model of this package: a small Qwen3 trained to retrieve. See README.md in this folder."""

from pathlib import Path


def path() -> Path:
    """Return the folder that ``AutoModelForCausalLM`` and ``AutoTokenizer`` load."""
    return Path(__file__).parent
