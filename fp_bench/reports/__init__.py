"""Tables, plots, comparisons and pages, computed from records."""
