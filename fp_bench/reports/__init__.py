"""Tables, plots, comparisons and pages: functions of records."""
