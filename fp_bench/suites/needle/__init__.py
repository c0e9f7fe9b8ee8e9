"""Needle in a haystack: one sentence at a chosen depth of a long text, in our wording or that of two repositories."""
