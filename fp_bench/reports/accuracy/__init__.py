"""Tables, plots and report of accuracy records."""
