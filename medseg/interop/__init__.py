"""Models and data sets of other programs, in and out."""
