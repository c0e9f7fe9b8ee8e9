"""Imports for workers that load a model, made once in their server because imports dominate start-up.

An import that fails here fails again, and is reported, when the model is loaded.
"""

from contextlib import suppress

with suppress(Exception):
    import transformers.modeling_utils  # noqa: F401
