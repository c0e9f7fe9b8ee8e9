"""Attention methods, one file per method."""
