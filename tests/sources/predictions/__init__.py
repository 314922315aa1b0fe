"""Tests of the predictions source, its command and the rules about drift."""
