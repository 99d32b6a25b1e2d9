"""Metrics of person search from detections, embeddings and annotations: NumPy only; nothing here prints or draws.

`evaluate` makes all numbers of a run from `detection`, `person_search` (one pass over `similarity`, by `matches`),
`protocols`, `reranking` and `curves`. Beside it `seeds` (means), `calibration` (the search threshold), `reid` (crops).
"""
