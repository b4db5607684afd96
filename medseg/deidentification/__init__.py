"""Identifiers out of DICOM objects: PS3.15 Annex E for the node and for folders of files."""
