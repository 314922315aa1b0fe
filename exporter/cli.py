"""The command line: serve (the default), once, check, reference, release, resume, and others."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import os
import resource
import sys
from collections.abc import Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from exporter import __version__, log
from exporter.config import ENVIRONMENT, Option, Settings, load, options
from exporter.control import Command, CommandRefused, CommandReply, send_command
from exporter.errors import ConfigError, SourceError
from exporter.lean_import import without_default_certificates
from exporter.reference import metrics_reference, settings_reference
from exporter.settings import Duration
from exporter.status_report import StatusLine, check_table
from exporter.web.config_reload import load_web_config
from exporter.web.settings import WebSettings

if TYPE_CHECKING:
    from exporter.app import App

T = TypeVar("T")

COMMANDS = {
    "serve": "run the daemon (the default)",
    "once": "poll all sources once, print the page; exit 1 if a wanted source failed",
    "check": "poll all sources once, print their status, errors and how to fix them",
    "reference": "make the reference of a model's predictions (reference --help)",
    "release": "release the NVIDIA driver in the running daemon (--for=10m; default: until resume)",
    "resume": "load the NVIDIA driver again after a release",
    "metrics": "print the reference of all metrics (Markdown)",
    "settings": "print the reference of all settings (Markdown)",
}


# Returned by `run` when the daemon stopped to restart in the same process; not an exit code.
RESTART = -1
# New objects after which Python searches them for cycles; 3.11's default is 700. A poll makes some
# thousand that end with it: a search in the middle of one finds nearly all alive.
_NEW_OBJECTS = 5000


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Prints one line and exits with 2, as for every invalid setting."""
        self.exit(2, f"inference-exporter: {message} (see --help)\n")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs the command and ends the process.

    By os._exit: at a regular exit Python joins the threads of its pools, and a DNS lookup that
    hangs in the resolver would keep a stopped daemon alive.
    """
    try:
        code = run(sys.argv[1:] if arguments is None else arguments, os.environ)
    except SystemExit as system_exit:
        code = system_exit.code if isinstance(system_exit.code, int) else 1
    except KeyboardInterrupt:
        code = 130
    except MemoryError:
        # A traceback would need memory, too.
        os.write(2, b"inference-exporter: out of memory: raise the memory limit (RLIMIT_AS)\n")
        code = 1
    except SourceError as error:  # no thread can be started
        os.write(2, f"inference-exporter: {error.message}; {error.remedy}\n".encode())
        code = 1
    except OSError as error:  # standard output is closed, full, or a broken pipe
        code = 0 if isinstance(error, BrokenPipeError) else 1
    log.flush(seconds=0.2)
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:  # None: closed by the parent process
                stream.flush()
        except OSError as error:
            code = code if isinstance(error, BrokenPipeError) else code or 1
    if code == RESTART:
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - this program
    os._exit(code)


def run(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Runs the command. Returns the exit code: 0, 1 a wanted source failed, 2 invalid settings."""
    if arguments and arguments[0] == "reference":
        return _make_reference(arguments[1:])
    return _run(arguments, environment)


def _make_reference(arguments: Sequence[str]) -> int:
    """Runs the command `reference`, which has arguments of its own."""
    from exporter.reference_builder import main as make_reference  # noqa: PLC0415 - for this command only

    return make_reference(arguments)


def _parse(
    arguments: Sequence[str], environment: Mapping[str, str]
) -> tuple[str, str | None, str | None, dict[str, list[str]]]:
    """Returns the command, the duration of --for, the settings file and the texts of the flags.

    A function of its own: while the daemon runs, the parser is not in memory.
    """
    known = {option.key: option for option in options()}
    parser = argument_parser(known)
    parsed = vars(parser.parse_args(arguments))
    command, duration = parsed["command"], parsed["for"]
    if duration and command != "release":
        parser.error("--for is only valid with the command release")
    if command == "reference":
        parser.error("reference must be the first argument")
    file = parsed["config.file"] or environment.get(f"{ENVIRONMENT}CONFIG_FILE")
    return command, duration, file, {key: parsed[key] for key in known if parsed.get(key)}


def _run(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    command, duration, file, flags = _parse(arguments, environment)
    if command == "metrics":
        print(metrics_reference(), end="")  # noqa: T201 - the command's output
        return 0
    if command == "settings":
        print(settings_reference(), end="")  # noqa: T201 - the command's output
        return 0

    def load_settings() -> Settings:
        return load(file, environment, flags)

    try:
        settings = load_settings()
        if command in ("release", "resume"):
            return _send_command(command, duration, settings)
        with without_default_certificates():
            from exporter.app import App  # noqa: PLC0415 - the web server: most of the start, not needed for an invalid setting and the commands above
        # The table of `check` contains the warnings.
        log.configure("error" if command == "check" else settings.log.level, settings.log.format)
        web_line = _web_line(settings.web) if command == "check" else None
        app = App(settings)
        if command == "serve":
            _allow_many_files()
            # Imported modules live as long as the process: exclude them from garbage collection.
            gc.collect()
            gc.freeze()
            gc.set_threshold(_NEW_OBJECTS)
            _run_loop(app.serve(load_settings))
            return RESTART if app.restart_requested else 0
    except ConfigError as error:
        print(f"inference-exporter: {error}", file=sys.stderr)  # noqa: T201 - the error message
        return 2
    page, lines = _run_loop(_poll_once(app))
    if web_line is not None:
        lines.insert(0, web_line)
    print(page if command == "once" else check_table(lines), end="")  # noqa: T201 - the command's output
    return int(any(line.failed for line in lines))


def _send_command(command: str, duration: str | None, settings: Settings) -> int:
    """Sends a command to the running daemon; returns the exit code. Raises ConfigError."""
    try:
        seconds = float(Duration.parse(duration)) if duration else None
    except ValueError as error:
        raise ConfigError("flag --for", "", str(error)) from None
    try:
        reply = send_command(settings.control.socket, os.environ, Command(command, seconds))
    except CommandRefused as error:
        reply = CommandReply(ok=False, message=str(error))
    stream = sys.stdout if reply.ok else sys.stderr
    print(f"inference-exporter: {reply.message}", file=stream)
    return 0 if reply.ok else 1


def _web_line(settings: WebSettings) -> StatusLine | None:
    """Returns the line of `check` about the web configuration file and the prefix of all paths.

    Raises ConfigError.
    """
    notes: list[str] = []
    if settings.config_file:
        loaded = load_web_config(settings.config_file)
        notes += [loaded.describe(), *loaded.warnings]
    if settings.prefix:
        notes.append(f"all paths begin with {settings.prefix}")
    return StatusLine("web", "Web server", "ok", notes=tuple(notes)) if notes else None


def _allow_many_files() -> None:
    """Raises the soft limit of open files to the hard limit, as cgroup files are kept open."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # fewer files are kept open
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _poll_once(app: App) -> tuple[str, list[StatusLine]]:
    try:
        page = await app.poll_once()
        return page, app.report()
    finally:
        await app.close()


def _run_loop(work: Coroutine[Any, Any, T]) -> T:
    """As asyncio.run, but does not join the threads of the loop's default executor (see main)."""
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(work)
    finally:
        loop.close()


def argument_parser(known: Mapping[str, Option]) -> argparse.ArgumentParser:
    commands = "\n".join(f"  {name:10}{text}" for name, text in COMMANDS.items())
    parser = _Parser(
        prog="inference-exporter",
        usage="inference-exporter [command] [flags]",
        description="Prometheus exporter for GPUs, containers and Triton of this host.\n\n"
        f"{commands}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "command", nargs="?", default="serve", choices=COMMANDS, help=argparse.SUPPRESS
    )
    parser.add_argument("--version", action="version", version=f"inference-exporter {__version__}")
    parser.add_argument("--for", metavar="DURATION", help="duration of a release, such as 10m")
    parser.add_argument("--config.file", metavar="FILE", help="YAML settings file")
    for option in known.values():
        parser.add_argument(
            option.flag,
            dest=option.key,
            action="append",
            # A boolean needs no value: --web.systemd-socket.
            nargs="?" if option.boolean else None,
            const="true" if option.boolean else None,
            metavar="|".join(option.choices) or option.name.rsplit("_", 1)[-1].upper(),
            help=f"{option.description} (default: {option.default_text})".replace("%", "%%"),
        )
    return parser
