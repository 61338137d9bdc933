"""What callers do: start runs, wait for them, send to them, look at them, steer them."""
