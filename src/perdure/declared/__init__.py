"""What flows and pipelines share: the names of their parts, what was called with what, how far a run has come."""
