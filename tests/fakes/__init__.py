"""Stand-ins for what a test machine cannot have, and sources with fixed readings."""
