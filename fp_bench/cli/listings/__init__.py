"""Tables of suites, methods, this machine and a model's layers."""
