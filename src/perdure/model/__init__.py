"""What perdure talks about: frozen data and the table of legal moves. No I/O."""
