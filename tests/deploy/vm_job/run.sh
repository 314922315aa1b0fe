#!/bin/sh
exec python3 -u check.py "$(cat form)"
