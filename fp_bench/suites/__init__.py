"""Suites: tasks that a model answers from a long prompt, one file or folder per suite, without models and methods."""
