"""Streams: what a run does, and what anybody writes, read by anybody from any place, as it comes."""
