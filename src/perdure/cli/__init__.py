"""The command line: `perdure`, and a module for each group of its commands."""
