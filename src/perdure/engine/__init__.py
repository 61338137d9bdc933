"""Replaying and driving one run: from journal entries to the workflow's own asyncio, and back."""
