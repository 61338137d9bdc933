"""Pipelines: typed stages in ordered groups, declared as data, and compiled onto the engine's context."""
