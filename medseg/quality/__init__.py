"""May this input, this mask be trusted: the input gate of a model and the flags of a result."""
