#!/bin/sh
exec python3 -u /job/check.py "$(cat /job/form)"
