"""Postgres as a store, through asyncpg."""
