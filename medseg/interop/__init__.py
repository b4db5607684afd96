"""Models of others, in and out: MONAI bundles, ONNX."""
