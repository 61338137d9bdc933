"""What the crash tests are made of: processes, what they run, and what must hold when they have died."""
