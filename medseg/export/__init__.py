"""Label maps as files that other programs read: NIfTI, pictures, DICOM SEG."""
