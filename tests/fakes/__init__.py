"""Fakes of hardware, servers and kernel files, and sources with fixed readings."""
