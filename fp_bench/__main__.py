"""``python -m fp_bench``: the same front door as ``fpbench``."""

from fp_bench.cli import main

if __name__ == "__main__":
    main()
