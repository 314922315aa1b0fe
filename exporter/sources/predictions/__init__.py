"""Reference distributions of models' predictions, from files."""
