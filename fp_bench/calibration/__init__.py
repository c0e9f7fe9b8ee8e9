"""Finds settings for a model: the fastest method, alphas, taus, and patterns of heads."""
