"""Reloads the web configuration when the file, or a certificate, key or CA it names, changes.

Prometheus' exporters read the file at every request. Here a thread checks the files for changes,
at most once a second and only while requests come in. If a changed file is invalid, the old
configuration stays.
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
from exporter.web.basic_auth import BasicAuthenticator
from exporter.web.configuration import WebConfiguration, read_web_config
from exporter.web.password_queue import PasswordQueue
from exporter.web.rate_limit import RateLimiter
from exporter.web.tls import server_context
from exporter.worker import Worker

log = logging.getLogger("exporter")

# Seconds between two checks of the files, and the time a request waits for a check.
CHECK_INTERVAL = 1.0
CHECK_TIMEOUT = 2.0

# Device, inode, size and mtime of a file; None if it cannot be read.
FileStamp = tuple[int, int, int, int] | None


@dataclass(frozen=True, slots=True)
class LoadedWebConfig:
    """A web configuration with its TLS context.

    warnings: a line for each key that is not honoured. stamps: FileStamp by path.
    """

    configuration: WebConfiguration
    context: ssl.SSLContext | None
    warnings: tuple[str, ...]
    stamps: tuple[tuple[str, FileStamp], ...]

    @property
    def stale(self) -> bool:
        """Whether a file has changed since it was read. Blocks."""
        return any(_stamp(path) != stamp for path, stamp in self.stamps)

    def describe(self) -> str:
        """Returns the summary for `check`: TLS version, client certificates, number of users."""
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
    """Reads the file and the files it names; an empty path means no TLS and no users.

    Blocks. Raises ConfigError.
    """
    if not file:
        return NO_WEB_CONFIG
    # Stamps are taken before reading: the next check then sees a change made while reading.
    first = _stamp(file)
    configuration = read_web_config(file)
    tls = configuration.tls_server_config
    stamps = [(file, first), *((path, _stamp(path)) for path in (tls.files if tls else ()))]
    warnings = [*configuration.warnings]
    if configuration.http_server_config.http2:
        warnings.append("http_server_config.http2: not offered; clients use HTTP/1.1")
    context = server_context(tls, file, warnings) if tls is not None else None
    return LoadedWebConfig(configuration, context, tuple(warnings), tuple(stamps))


class WebConfigReloader:
    """Holds the current web configuration. Used from the event loop only."""

    def __init__(self, loaded: LoadedWebConfig, file: str) -> None:
        self._file_worker = Worker("web files")
        self._passwords = PasswordQueue()
        self._next_check = 0.0
        self._check_task: asyncio.Task[None] | None = None
        self._last_error = ""
        self.apply(loaded, file)

    def apply(self, loaded: LoadedWebConfig, file: str) -> None:
        """Applies a configuration, at the start or at a reload by an operator."""
        self.file, self.loaded = file, loaded
        configuration = loaded.configuration
        users = configuration.basic_auth_users
        self.authenticator = BasicAuthenticator(users, self._passwords) if users else None
        self.headers = configuration.headers
        limit = configuration.rate_limit
        self.rate_limiter = RateLimiter(limit.interval, limit.burst) if limit is not None else None
        self._next_check = time.monotonic() + CHECK_INTERVAL
        self._last_error = ""
        for warning in loaded.warnings:
            log.warning("%s: %s", file, warning)

    @property
    def due(self) -> bool:
        """Whether CHECK_INTERVAL has passed since the last check."""
        return bool(self.file) and time.monotonic() >= self._next_check

    async def check(self) -> None:
        """Reloads the configuration if a file has changed.

        Never raises; returns after CHECK_TIMEOUT at the latest.
        """
        self._next_check = time.monotonic() + CHECK_INTERVAL
        if self._check_task is None:  # otherwise a check hangs, and other requests do not wait
            self._check_task = asyncio.create_task(self._check(self.loaded), name="web files")
            await asyncio.wait((self._check_task,), timeout=CHECK_TIMEOUT)

    async def _check(self, current: LoadedWebConfig) -> None:
        try:
            new = await self._file_worker.run(partial(_reload_if_stale, self.file, current))
            if new is not None and self.loaded is current:
                self._apply_changed(new)
        except ExporterError as error:
            self._log_once(str(error))
        except Exception:
            log.exception("%s: the check for changes failed", self.file)
        finally:
            self._check_task = None

    def _apply_changed(self, new: LoadedWebConfig) -> None:
        """Applies a changed file. Raises ConfigError if it removes protection.

        A file is often empty for a moment while it is written, so a change of the file alone
        must not remove TLS, users or client verification.
        """
        old, configuration = self.loaded, new.configuration
        for key, removed in (
            ("tls_server_config", old.context is not None and new.context is None),
            (
                "basic_auth_users",
                bool(old.configuration.basic_auth_users) and not configuration.basic_auth_users,
            ),
            (
                "tls_server_config.client_auth_type",
                _requires_client_cert(old) and not _requires_client_cert(new),
            ),
            (
                "tls_server_config.client_allowed_sans",
                _restricts_sans(old) and not _restricts_sans(new),
            ),
        ):
            if removed:
                raise ConfigError(
                    self.file, key, "was removed; that takes effect at a reload or restart only"
                )
        changed = configuration != old.configuration
        if not changed:
            # Only a certificate, key or CA: cached logins stay valid.
            self.loaded = new
        else:
            self.apply(new, self.file)
        self._last_error = ""
        log.info("%s: %s reloaded", self.file, "settings" if changed else "certificates")

    def _log_once(self, message: str) -> None:
        if message != self._last_error:
            log.error("web configuration refused, the previous configuration stays: %s", message)
        self._last_error = message

    def close(self) -> None:
        """Stops the threads; never waits."""
        if self._check_task is not None:
            self._check_task.cancel()
        self._file_worker.close()
        self._passwords.close()


def _reload_if_stale(file: str, loaded: LoadedWebConfig) -> LoadedWebConfig | None:
    return load_web_config(file) if loaded.stale else None


def _stamp(path: str) -> FileStamp:
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _requires_client_cert(loaded: LoadedWebConfig) -> bool:
    return loaded.context is not None and loaded.context.verify_mode is ssl.CERT_REQUIRED


def _restricts_sans(loaded: LoadedWebConfig) -> bool:
    tls = loaded.configuration.tls_server_config
    return tls is not None and bool(tls.client_allowed_sans)
