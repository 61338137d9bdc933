"""What is seen of runs from outside: spans, metrics, log lines. Spans and metrics need an extra; nothing needs them."""
