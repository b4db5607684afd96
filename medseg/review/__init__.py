"""Review: which cases to look at first, out for correction, and back as a new version of the manifest."""
