"""Tables, plots and report of latency records."""
