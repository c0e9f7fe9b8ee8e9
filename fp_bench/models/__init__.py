"""Hugging Face models: their Q, K, V captured, and the embedded model."""
