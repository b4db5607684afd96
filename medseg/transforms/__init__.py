"""Image preparation: deterministic steps, their inverse for predictions, and random training steps."""
