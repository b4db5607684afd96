"""Data sets of others -> a manifest: nnU-Net, Medical Segmentation Decathlon, BIDS, parallel folders."""
