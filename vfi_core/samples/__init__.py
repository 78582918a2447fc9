"""Bundled scenes to try the method on: `<name>_first.png` and `<name>_last.png`, drawn by `draw.py`."""
