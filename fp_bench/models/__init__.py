"""Hugging Face models: loading, replaced attention, capture of Q, K, V, and the embedded model."""
