"""Sheets of person crops: a re-ID dataset as images with boxes and identities."""
