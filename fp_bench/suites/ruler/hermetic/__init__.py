"""``ruler``: RULER's tasks from our own words, prose and facts, with no download, and every sample on its own seed.

A task drafts a sample (`drafts.py`) that can be written with more or less filling; `suites/fit.py` finds how much
fits.
"""
