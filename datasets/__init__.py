"""Datasets, one folder each: a TFDS builder in `builder.py` and whatever it reads or renders beside it."""
