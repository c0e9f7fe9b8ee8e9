"""``ruler``: RULER's tasks from our own words, prose and facts, without download, with a seed per sample.

A task drafts a sample (`drafts.py`) that can be written with any amount of filling; `suites/fit.py` finds how much
fits.
"""
