"""Finished DICOM objects on the network: C-ECHO, C-STORE, storage commitment, queries, DICOMweb, the outbox.

Nothing here knows what a mask is.
"""
