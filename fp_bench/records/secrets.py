"""Masks secrets that a command, a reason or a fact may contain by accident, before anything is written."""

import re

MASK = "***"
_SECRETS = re.compile(
    r"(?<=://)[^/\s@'\"]+(?=@)"  # credentials of a URL
    r"|(?i:(?<=bearer )|(?<=[?&]token=)|(?<=[?&]key=)|(?<=[?&]api_key=)|(?<=[?&]signature=))[^&\s'\"]+"
    r"|\b(?:hf_[A-Za-z0-9]{30,}|sk-[\w-]{20,}|gh[pousr]_[A-Za-z0-9]{30,}|github_pat_\w{20,}|glpat-[\w-]{16,}"
    r"|xox[abprs]-[\w-]{10,}|A[KS]IA[A-Z0-9]{16}|AIza[\w-]{30,}|eyJ[\w-]{10,}\.[\w.-]+)"
)


def masked(text: str) -> str:
    """Return a text with credentials of URLs and tokens of well-known kinds masked."""
    return _SECRETS.sub(MASK, text)
