"""``python -m fp_bench``: the same front door as ``fpbench``."""

import os.path
import sys

# Python put the working directory first. A file there named as a module of Python is none of ours to import.
if not sys.flags.safe_path and os.path.realpath(sys.path[0]) != os.path.realpath(f"{os.path.dirname(__file__)}/.."):
    del sys.path[0]

from fp_bench.cli import main

if __name__ == "__main__":
    main()
