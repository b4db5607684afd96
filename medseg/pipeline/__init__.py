"""Joins the stages; the only package that knows them all. The CLI and notebooks call `run_pipeline` and `predict`."""
