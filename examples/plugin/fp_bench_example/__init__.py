"""A method and a suite for fpbench, each in one file."""
