"""Trained network in, label map on the source grid out."""
