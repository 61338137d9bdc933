"""Hypothesis must not take a busy machine for a failing test."""

from hypothesis import settings

settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
