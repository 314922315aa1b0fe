"""Rendering rows to the exposition formats, and the pages a scrape returns."""
