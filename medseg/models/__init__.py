"""Networks, and bundles of trained ones."""
