"""Flows: workflows that are declared as data, and compiled onto the engine's context."""
