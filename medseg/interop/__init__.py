"""Models of other programs, in and out: nnU-Net, MONAI bundles, ONNX."""
