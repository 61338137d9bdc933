"""A process that drives runs: claims, heartbeat, take-over, drain."""
