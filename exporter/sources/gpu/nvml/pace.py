"""The paces of the questions to the driver.

The driver's calls cost from one microsecond to six milliseconds (docs/hardware.md), and their
values change from every millisecond to never. So each question has a pace of its own, declared
beside it in the tables of `calls.py`, `fields.py` and `structs.py`: the seconds until it is asked
again, at the next poll.
"""

from __future__ import annotations

EVERY_POLL = 0.0
QUARTER_MINUTE = 15.0
MINUTE = 60.0
FIVE_MINUTES = 300.0
HOUR = 3600.0
