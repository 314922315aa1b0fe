"""python -m exporter, and the command inference-exporter."""

import signal


def start() -> None:
    """Run the command. A SIGHUP that comes before the daemon can take one is no reason to end."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    from exporter.cli import main  # noqa: PLC0415 - what it imports takes a moment: see above

    main()


if __name__ == "__main__":
    start()
