"""Where studies are fetched from: each look of a source hands what is new to the intake."""
