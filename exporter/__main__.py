"""Entry point of `python -m exporter` and of the command `inference-exporter`."""

import signal


def start() -> None:
    """Runs the command. Ignores SIGHUP until the daemon has installed its handler."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    from exporter.cli import main  # noqa: PLC0415 - its imports take a moment, in which a SIGHUP must not end the process

    main()


if __name__ == "__main__":
    start()
