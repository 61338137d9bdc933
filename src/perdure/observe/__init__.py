"""What is seen of runs from outside: spans, metrics, log lines. Each needs an extra, and nothing else needs it."""
