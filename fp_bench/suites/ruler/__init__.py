"""RULER (Hsieh et al., arXiv 2404.06654), thirteen tasks: hermetic, as NVIDIA generates it, or from files.

`tasks.py` has the parts shared by the three variants, `templates.py` the wording.
"""
