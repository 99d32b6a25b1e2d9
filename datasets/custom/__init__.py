"""Anybody's annotated photographs: COCO-style JSON with person ids, or CSV."""
