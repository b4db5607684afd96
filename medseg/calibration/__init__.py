"""Whether probabilities can be taken at their word, and how far a volume may be off."""
