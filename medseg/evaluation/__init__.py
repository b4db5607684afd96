"""How good a segmentation is and how big what it shows is. NumPy in, numbers out, no torch."""
