"""Lowerings and draws that layers share."""
