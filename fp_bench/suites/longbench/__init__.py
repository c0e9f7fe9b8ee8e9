"""LongBench: 21 data sets, the 13 of LongBench-E, and version 2 (Bai et al., arXiv 2308.14508 and 2412.15204).

`templates.py` has the wording, `tasks.py` the data sets and their scores, `metrics.py` the metrics.
"""
