"""Datasets, one folder each: a builder in `builder.py` and whatever it reads or renders beside it."""
