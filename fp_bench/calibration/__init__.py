"""Finds a method's thresholds for a model: FlashPrefill's alpha, XAttention's taus."""
