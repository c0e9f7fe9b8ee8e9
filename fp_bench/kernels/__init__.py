"""Operators on tensors, usable alone: they know nothing of methods, inputs or records."""
