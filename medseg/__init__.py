"""medseg: medical-image segmentation from the scanner to a checked result."""

__version__ = "0.1.0"
