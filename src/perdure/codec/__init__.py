"""Values, calls and errors as JSON text; canonical JSON; the seam for compression and encryption."""
