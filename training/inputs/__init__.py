"""Fits the strengths of structured inputs to what sparse methods keep of real models: ``python -m training.inputs``."""
