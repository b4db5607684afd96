"""Cases: lists of them, splits, checks, and the samples that training sees."""
