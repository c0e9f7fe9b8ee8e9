"""What a method's thresholds have to be on a model: FlashPrefill's alpha, XAttention's taus."""
