"""The pytest plugin: fixtures are filled in lazily, so that loading it costs nothing."""
