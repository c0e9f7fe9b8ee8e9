"""``ruler``: RULER's tasks from our own words, prose and facts, with no download, and every sample on its own seed.

A task drafts a sample (`draft.py`) that can be written with more or less filling, and `fit.py` finds how much fits.
"""
