"""Layers, one family to a file."""
