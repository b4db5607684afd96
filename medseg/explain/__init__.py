"""Why a network drew a mask: maps of what counted, each with a test of whether it depends on the weights at all."""
