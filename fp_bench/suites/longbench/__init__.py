"""LongBench: 21 data sets, the 13 of LongBench-E, and version 2 (Bai et al., arXiv 2308.14508 and 2412.15204).

`templates.py` has the wording, `tasks.py` what each data set is and how it is scored, `metrics.py` the metrics.
"""
