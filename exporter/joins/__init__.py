"""What joins two sources: pure functions over the readings of both."""
