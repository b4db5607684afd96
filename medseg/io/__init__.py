"""Readers and writers of images: DICOM, NIfTI and pictures in, label maps out.

`read.read_image` and `read.read_label` take any supported file; `discover.discover` finds images in
folders. Every reader gives a `Volume` or raises a `MedsegError` that says what is wrong with the
file; declared sizes are checked against `limits.ReadLimits` before anything is decoded.
"""
