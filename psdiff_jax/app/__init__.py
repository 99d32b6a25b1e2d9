"""The search as a page in the browser: `python -m psdiff_jax.app --index DIR`."""
