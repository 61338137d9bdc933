"""Deliver what runs have done to those who want to know: sinks."""
