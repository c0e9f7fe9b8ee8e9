"""Suites: tasks that a model answers from a long prompt, one room or file a suite; they know no model and no method."""
