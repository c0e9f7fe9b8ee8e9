"""``ruler@nvidia``: NVIDIA's generators reproduced byte for byte, for one seed, length and tokenizer.

Every draw follows the order of NVIDIA/RULER, commit c3f5e3b4 (2026-07-22), so wasteful steps are kept: each length
tried by the search is a full random sample, and a sample that is too long is drawn again with less.
"""
