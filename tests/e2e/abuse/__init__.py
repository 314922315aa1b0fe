"""Attacks on the daemon in a memory cgroup, with the bounds it keeps."""
