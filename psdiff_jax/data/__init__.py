"""Data on the host: prepared datasets (`records`), their batches (`pipeline`), image and box arithmetic (`transforms`).

Nothing is imported here, so that `psdiff_jax.data.schema` costs a NumPy import and no more.
"""
