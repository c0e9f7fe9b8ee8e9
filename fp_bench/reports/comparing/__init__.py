"""Two runs, or two methods of one run, side by side."""
