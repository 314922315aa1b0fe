"""For the virtual machine alone: SIGUSR1 blocks the main thread, and with it the event loop."""

import os
import signal
import time

if os.environ.get("NOTIFY_SOCKET"):
    signal.signal(signal.SIGUSR1, lambda *_: time.sleep(600))
