"""The user's own annotated images."""
