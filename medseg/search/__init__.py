"""Search for settings: which values are tried, in a study that can be interrupted and shared; Optuna underneath."""
