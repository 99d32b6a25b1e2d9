"""PRW (Person Re-identification in the Wild), read from its own on-disk format."""
