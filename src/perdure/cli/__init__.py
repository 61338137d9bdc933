"""The command line: `perdure run`, `worker`, `workers`, `db`, `doctor`."""
