"""What workers that load a model are forked with: it takes longer to import than all else together.

What fails here fails again, and is told, where the model is loaded.
"""

from contextlib import suppress

with suppress(Exception):
    import transformers.modeling_utils  # noqa: F401
