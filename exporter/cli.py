"""The command line: serve (the default), once, check, metrics, settings."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import os
import resource
import sys
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

from exporter import __version__, log
from exporter.app import App
from exporter.config import ENVIRONMENT, Option, Settings, load, options
from exporter.control import Command, CommandRefused, CommandReply, send_command
from exporter.errors import ConfigError
from exporter.reference import metrics_reference, settings_reference
from exporter.settings import Duration
from exporter.status_report import StatusLine, check_table
from exporter.web.config_reload import load_web_config as load_web

T = TypeVar("T")

COMMANDS = {
    "serve": "run the daemon (the default)",
    "once": "read everything once and print the page; exit 1 if something wanted failed",
    "check": "show each source: found or not, why, and how to mend it",
    "release": "make the running daemon let go of the NVIDIA driver (--for=10m; else until resume)",
    "resume": "end a release",
    "metrics": "print the reference of all metrics",
    "settings": "print the reference of all settings",
}


# What `run` gives when the daemon has stopped in order to be run anew; no exit code.
START_OVER = -1


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line and exit 2, as for every other bad setting."""
        self.exit(2, f"inference-exporter: {message} (see --help)\n")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command and leave the process.

    It leaves by os._exit: at an ordinary exit Python waits for the threads of its pools, and one
    look-up of a name that hangs in the resolver would keep a stopped daemon alive.
    """
    try:
        code = run(sys.argv[1:] if arguments is None else arguments, os.environ)
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else 1
    except KeyboardInterrupt:
        code = 130
    except OSError as error:  # standard output is closed, full, or no longer read
        code = 0 if isinstance(error, BrokenPipeError) else 1
    log.flush(seconds=0.2)
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:  # closed by whoever started us
                stream.flush()
        except OSError as error:
            code = code if isinstance(error, BrokenPipeError) else code or 1
    if code == START_OVER:
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - ourselves
    os._exit(code)


def run(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run the command; gives the exit code: 0 good, 1 something wanted failed, 2 bad settings."""
    known = {option.key: option for option in options()}
    parser = _parser(known)
    parsed = vars(parser.parse_args(arguments))
    flags = {key: parsed[key] for key in known if parsed.get(key)}
    file = parsed["config.file"] or environment.get(f"{ENVIRONMENT}CONFIG_FILE")
    command = parsed["command"]
    if parsed["for"] and command != "release":
        parser.error("--for belongs to the command release")
    if command == "metrics":
        print(metrics_reference(), end="")  # noqa: T201 - what the command is for
        return 0
    if command == "settings":
        print(settings_reference(), end="")  # noqa: T201 - what the command is for
        return 0

    def read() -> Settings:
        return load(file, environment, flags)

    try:
        settings = read()
        if command in ("release", "resume"):
            return _command(command, parsed["for"], settings)
        # What `check` has to say is in its table.
        log.configure("error" if command == "check" else settings.log.level, settings.log.format)
        web = _web_line(settings.web.config_file) if command == "check" else None
        app = App(settings)
        if command == "serve":
            _allow_many_files()
            # What is imported by now lives as long as the process: the collector need not look.
            gc.collect()
            gc.freeze()
            _run_loop(app.serve(read))
            return START_OVER if app.start_over else 0
    except ConfigError as error:
        print(f"inference-exporter: {error}", file=sys.stderr)  # noqa: T201 - the user's one line
        return 2
    page, lines = _run_loop(_read_once(app))
    if web is not None:
        lines.insert(0, web)
    print(page if command == "once" else check_table(lines), end="")  # noqa: T201 - the result
    return int(any(line.failed for line in lines))


def _command(command: str, duration: str | None, settings: Settings) -> int:
    """Give a command to the running daemon. Raises ConfigError."""
    try:
        seconds = float(Duration.parse(duration)) if duration else None
    except ValueError as error:
        raise ConfigError("flag --for", "", str(error)) from None
    try:
        answer = send_command(settings.control.socket, os.environ, Command(command, seconds))
    except CommandRefused as error:
        answer = CommandReply(ok=False, message=str(error))
    stream = sys.stdout if answer.ok else sys.stderr
    print(f"inference-exporter: {answer.message}", file=stream)
    return 0 if answer.ok else 1


def _web_line(file: str) -> StatusLine | None:
    """What `check` says of the web configuration file. Raises ConfigError."""
    if not file:
        return None
    loaded = load_web(file)
    return StatusLine("web", "The page", "ok", notes=(loaded.describe(), *loaded.warnings))


def _allow_many_files() -> None:
    """Raise the soft limit of open files to the hard one: cgroup files are kept open."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # refused: fewer files are kept open
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _read_once(app: App) -> tuple[str, list[StatusLine]]:
    try:
        page = await app.sweep()
        return page, app.report()
    finally:
        await app.close()


def _run_loop(work: Coroutine[Any, Any, T]) -> T:
    """As asyncio.run, but without waiting for the threads of the loop's own pool (see main)."""
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(work)
    finally:
        loop.close()


def _parser(known: Mapping[str, Option]) -> argparse.ArgumentParser:
    commands = "\n".join(f"  {name:10}{text}" for name, text in COMMANDS.items())
    parser = _Parser(
        prog="inference-exporter",
        usage="inference-exporter [command] [flags]",
        description=f"GPUs, containers and Triton of this host on one /metrics.\n\n{commands}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "command", nargs="?", default="serve", choices=COMMANDS, help=argparse.SUPPRESS
    )
    parser.add_argument("--version", action="version", version=f"inference-exporter {__version__}")
    parser.add_argument("--for", metavar="DURATION", help="release: for how long (such as 10m)")
    parser.add_argument("--config.file", metavar="FILE", help="YAML file with settings")
    for option in known.values():
        parser.add_argument(
            option.flag,
            dest=option.key,
            action="append",
            # A switch may stand alone: --web.systemd-socket.
            nargs="?" if option.boolean else None,
            const="true" if option.boolean else None,
            metavar="|".join(option.choices) or option.name.rsplit("_", 1)[-1].upper(),
            help=f"{option.description} (default: {option.shown_default})".replace("%", "%%"),
        )
    return parser
