"""Tables that describe what there is: suites, methods, this machine, a model's layers."""
