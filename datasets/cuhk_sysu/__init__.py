"""CUHK-SYSU, read from its own on-disk format."""
