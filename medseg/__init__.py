"""medseg: medical-image segmentation from the scanner to a checked result."""

import os

__version__ = "0.1.0"

# ONNX Runtime reports its use over the network, from version 1.29 on Linux as well; it asks once, when it is loaded.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
