"""InfiniteBench: twelve tasks of 100K tokens and more (Zhang et al., arXiv 2402.13718).

`templates.py` has the wording, `metrics.py` the score of each task.
"""
