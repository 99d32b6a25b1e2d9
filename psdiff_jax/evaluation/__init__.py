"""Evaluation of person search from detections, embeddings and annotations: NumPy only, no model.

`embeddings` (what is scored), `detection`, `protocols`, `person_search` (the rules), `evaluate` (all numbers of a
run), `table`, `ranking` (one query), `drawing`, `figures`, `strips` (pictures).
"""
