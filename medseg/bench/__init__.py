"""`medseg bench`: figures measured on this machine, in this run."""
