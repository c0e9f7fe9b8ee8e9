"""RULER (Hsieh et al., arXiv 2404.06654), thirteen tasks: hermetic, as NVIDIA generates it, or from files.

`tasks.py` has what the three variants share, `templates.py` the wording.
"""
