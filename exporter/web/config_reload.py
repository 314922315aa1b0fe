"""The web configuration as it is now: read at the start, and again when one of its files changes.

Prometheus' exporters read the file at every request. Here its files are looked at, in a thread,
at most once a second and only while somebody asks; what is broken leaves the old in place.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from exporter.errors import ConfigError, ExporterError
from exporter.web.basic_auth import Users
from exporter.web.configuration import WebConfiguration, read_configuration
from exporter.web.rate_limit import RateLimiter
from exporter.web.tls import server_context
from exporter.worker import Worker

log = logging.getLogger("exporter")

# Seconds between two looks at the files, and how long a request waits for one.
CHECK_INTERVAL = 1.0
CHECK_TIMEOUT = 2.0

# What tells a file from its successor: device, inode, size, time of change.
FileStamp = tuple[int, int, int, int] | None


@dataclass(frozen=True, slots=True)
class LoadedWebConfig:
    """A configuration with what is made of it. warnings: keys that are not honoured, and why."""

    configuration: WebConfiguration
    context: ssl.SSLContext | None
    warnings: tuple[str, ...]
    stamps: tuple[tuple[str, FileStamp], ...]

    @property
    def stale(self) -> bool:
        """Whether a file is another by now. Blocks."""
        return any(_stamp(path) != stamp for path, stamp in self.stamps)

    def describe(self) -> str:
        """In words, for `check`."""
        tls = self.configuration.tls_server_config
        parts = ["no TLS"]
        if tls is not None and self.context is not None:
            version = self.context.minimum_version.name  # TLSv1_2
            parts = [f"{version.replace('v', ' ').replace('_', '.')} and newer"]
            if self.context.verify_mode is ssl.CERT_REQUIRED:
                parts.append("client certificates")
        if users := self.configuration.basic_auth_users:
            parts.append(f"{len(users)} user{'s' * (len(users) > 1)}")
        return ", ".join(parts)


NO_WEB_CONFIG = LoadedWebConfig(WebConfiguration(), None, (), ())


def load_web_config(file: str) -> LoadedWebConfig:
    """Read the file and those it names; no file is no protection. Blocks. Raises ConfigError."""
    if not file:
        return NO_WEB_CONFIG
    # Stamped before they are read: what changes meanwhile is seen at the next look.
    first = _stamp(file)
    configuration = read_configuration(file)
    tls = configuration.tls_server_config
    stamps = [(file, first), *((path, _stamp(path)) for path in (tls.files if tls else ()))]
    warnings: list[str] = []
    if configuration.http_server_config.http2:
        warnings.append("http_server_config.http2: not offered; clients use HTTP/1.1")
    context = server_context(tls, file, warnings) if tls is not None else None
    return LoadedWebConfig(configuration, context, tuple(warnings), tuple(stamps))


class WebConfigReloader:
    """Hands out what is loaded, kept current. Used from the event loop only."""

    def __init__(self, loaded: LoadedWebConfig, file: str) -> None:
        self._files = Worker("web files")
        self._passwords = Worker("passwords", shared=True)
        self._next_look = 0.0
        self._looking: asyncio.Task[None] | None = None
        self._complaint = ""
        self.take(loaded, file)

    def take(self, loaded: LoadedWebConfig, file: str) -> None:
        """Go over to this one, by a person's will: at the start or at a reload."""
        self.file, self.loaded = file, loaded
        configuration = loaded.configuration
        users = configuration.basic_auth_users
        self.users = Users(users, self._passwords) if users else None
        self.headers = configuration.headers
        limit = configuration.rate_limit
        self.bucket = RateLimiter(limit.interval, limit.burst) if limit is not None else None
        self._next_look = time.monotonic() + CHECK_INTERVAL
        self._complaint = ""
        for warning in loaded.warnings:
            log.warning("%s: %s", file, warning)

    @property
    def due(self) -> bool:
        """Whether `look` would look."""
        return bool(self.file) and time.monotonic() >= self._next_look

    async def look(self) -> None:
        """See whether a file has changed, and if so go over to it. Never raises, never hangs."""
        self._next_look = time.monotonic() + CHECK_INTERVAL
        if self._looking is None:  # otherwise a look hangs, and nobody else waits for it
            self._looking = asyncio.create_task(self._look(self.loaded), name="web files")
            await asyncio.wait((self._looking,), timeout=CHECK_TIMEOUT)

    async def _look(self, before: LoadedWebConfig) -> None:
        try:
            new = await self._files.run(partial(_reload, self.file, before))
            if new is not None and self.loaded is before:
                self._take_over(new)
        except ExporterError as error:
            self._complain(str(error))
        except Exception:
            log.exception("%s: could not be looked at", self.file)
        finally:
            self._looking = None

    def _take_over(self, new: LoadedWebConfig) -> None:
        """Go over to a changed file; but a change of a file alone never opens what was closed.

        A file is often empty for a moment while it is written.
        """
        old, configuration = self.loaded, new.configuration
        for key, lost in (
            ("tls_server_config", old.context is not None and new.context is None),
            (
                "basic_auth_users",
                bool(old.configuration.basic_auth_users) and not configuration.basic_auth_users,
            ),
            ("tls_server_config.client_auth_type", _strict(old) and not _strict(new)),
            ("tls_server_config.client_allowed_sans", _chosen(old) and not _chosen(new)),
        ):
            if lost:
                raise ConfigError(self.file, key, "is gone; that takes a reload or a restart")
        changed = configuration != old.configuration
        if not changed:
            # Only a certificate: who is logged in stays so.
            self.loaded = new
        else:
            self.take(new, self.file)
        self._complaint = ""
        log.info("%s: %s loaded again", self.file, "settings" if changed else "certificates")

    def _complain(self, line: str) -> None:
        if line != self._complaint:
            log.error("web configuration refused, the old one stays: %s", line)
        self._complaint = line

    def close(self) -> None:
        """End the threads; never waits."""
        if self._looking is not None:
            self._looking.cancel()
        self._files.close()
        self._passwords.close()


def _reload(file: str, loaded: LoadedWebConfig) -> LoadedWebConfig | None:
    return load_web_config(file) if loaded.stale else None


def _stamp(path: str) -> FileStamp:
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _strict(loaded: LoadedWebConfig) -> bool:
    """Whether a client must show a certificate that is verified."""
    return loaded.context is not None and loaded.context.verify_mode is ssl.CERT_REQUIRED


def _chosen(loaded: LoadedWebConfig) -> bool:
    """Whether only certificates of certain names are taken."""
    tls = loaded.configuration.tls_server_config
    return tls is not None and bool(tls.client_allowed_sans)
