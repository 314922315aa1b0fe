"""Other servers on HTTP: where they are, who may ask them, and how one is asked within bounds."""
