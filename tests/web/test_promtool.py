"""Web configuration files, judged by `promtool check web-config` and by this exporter.

Each file that promtool takes is taken, and each one that it refuses is refused; a difference has a
reason, which docs/web.md gives.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from exporter.errors import ConfigError
from exporter.web.config_reload import load_web_config
from tests.certificates import authority, signed
from tests.parts import missing
from tests.paths import ROOT

HASH = "$2y$10$X0h1gDsPszWURQaxFh.zoubFi6DXncSjhoQNJgRrnGs7EsimhC7zG"
TLS = "tls_server_config:\n  cert_file: server.crt\n  key_file: server.key\n"
USERS = "basic_auth_users:\n"
HEADERS = "http_server_config:\n  headers:\n"
CLIENTS = TLS + "  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.crt\n"

# Beside Debian's.
NEWER_PROMTOOLS = (ROOT / ".cache/bin/prometheus3/promtool",)

# crypto/tls.CipherSuites() of Go 1.19, with which promtool 2.42 is built.
CIPHERS = (
    "TLS_AES_128_GCM_SHA256",
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
    "TLS_RSA_WITH_AES_128_CBC_SHA",
    "TLS_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
)
CURVES = ("CurveP256", "CurveP384", "CurveP521", "X25519")
VERSIONS = ("TLS10", "TLS11", "TLS12", "TLS13")
CLIENT_AUTH = (
    "NoClientCert",
    "RequestClientCert",
    "RequireAnyClientCert",
    "RequireClientCert",
    "VerifyClientCertIfGiven",
    "RequireAndVerifyClientCert",
)

# Files by name. Many are those of exporter-toolkit's documentation and tests.
CASES = {
    # The whole file.
    "empty": "",
    "comment": "# nothing\n",
    "null": "~\n",
    "blank-sections": ("tls_server_config:\nhttp_server_config:\nbasic_auth_users:\n"),
    "empty-sections": (
        "tls_server_config: {}\nhttp_server_config: {headers: {}}\nbasic_auth_users: {}\n"
    ),
    "junk": "hWkNKCp3fvIx3jKnsaBI\nTuEjdwNS8A2vYdFbiKqr\n",
    "junk-list": "- a\n- b\n",
    "junk-key": "tls_server_config:\n  cert_filse: server.crt\n",
    "unknown-section": "basic_auth: {}\n",
    "section-is-a-text": "tls_server_config: on\n",
    "section-is-empty-text": "basic_auth_users: ''\n",
    "section-is-a-list": "http_server_config: []\n",
    "duplicate-section": "basic_auth_users: {}\nbasic_auth_users: {}\n",
    "duplicate-key": TLS + "  key_file: server.key\n",
    "duplicate-in-quotes": TLS + "  'key_file': server.key\n",
    "not-utf-8": "basic_auth_users: {\udcff: x}\n",
    "control-character": "basic_auth_users: {\x01: x}\n",
    "utf-8-mark": "\ufeff" + TLS,
    "tabs-as-blanks": TLS.replace("config:", "config:\t# x").replace("file: ", "file:\t"),
    "tab-as-indent": "tls_server_config:\n\tcert_file: server.crt\n",
    "flow": "{tls_server_config: {cert_file: server.crt, key_file: server.key}}\n",
    "windows-lines": TLS.replace("\n", "\r\n"),
    "document-marks": f"%YAML 1.1\n---\n{TLS}...\n",
    "empty-second-document": TLS + "---\n",
    "second-document": TLS + "---\nbasic_auth_users: {}\n",
    "unknown-alias": "tls_server_config: *a\n",
    "alias": (f"basic_auth_users:\n  a: &hash {HASH}\n  b: *hash\n"),
    "alias-in-itself": "basic_auth_users: &a {b: *a}\n",
    "merge": f"basic_auth_users: {{a: {HASH}, <<: {{b: {HASH}}}}}\n",
    "merge-twice-in-a-map": f"basic_auth_users: {{a: {HASH}, <<: {{a: {HASH}}}}}\n",
    "merge-twice-in-a-struct": (
        "tls_server_config: {<<: {cert_file: a, key_file: b}, cert_file: server.crt, "
        "key_file: server.key}\n"
    ),
    "merge-wins-if-later": TLS + "  <<: {cert_file: somefile}\n",
    "merge-of-sections": (
        "<<: {tls_server_config: {cert_file: server.crt}}\n"
        "tls_server_config: {key_file: server.key}\n"
    ),
    "merge-of-a-text": "tls_server_config: {<<: x}\n",
    "merge-of-a-list": (
        "tls_server_config: {<<: [{cert_file: server.crt}, {key_file: server.key}]}\n"
    ),
    "key-is-a-list": "basic_auth_users: {[a]: b}\n",
    "tag-of-a-text": "http_server_config: {headers: {X-XSS-Protection: !!str 0}}\n",
    "tag-of-a-mapping": "http_server_config: !mine {headers: !!map {}}\n",
    "tag-of-a-language": "http_server_config: !!python/object:os.system {}\n",
    "tag-that-does-not-fit": "http_server_config: {headers: {X-XSS-Protection: !!int on}}\n",
    # tls_server_config
    "tls": TLS,
    "tls-folder": "tls_server_config: {cert_file: ./server.crt, key_file: ../web/server.key}\n",
    "blank-keys": TLS + "  client_ca_file:\n  cipher_suites:\n  client_auth_type: ''\n",
    "null-keys": TLS
    + "".join(
        f"  {key}: ~\n"
        for key in (
            *("client_auth_type", "client_ca_file", "min_version", "max_version", "cipher_suites"),
            *("curve_preferences", "prefer_server_cipher_suites"),
        )
    ),
    "null-capitals": TLS + "  client_auth_type: Null\n  client_ca_file: NULL\n",
    "empty-lists": TLS + "  cipher_suites: []\n  curve_preferences: []\n",
    "no-key": "tls_server_config: {cert_file: server.crt}\n",
    "no-certificate": "tls_server_config: {key_file: server.key}\n",
    "empty-certificate": "tls_server_config: {cert_file: '', key_file: server.key}\n",
    "empty-key": "tls_server_config: {cert_file: server.crt, key_file: ''}\n",
    "empty-both": "tls_server_config: {cert_file: '', key_file: '', client_auth_type: x}\n",
    "blank-both": "tls_server_config: {cert_file: , key_file: }\n",
    "absent-certificate": "tls_server_config: {cert_file: somefile, key_file: server.key}\n",
    "absent-key": "tls_server_config: {cert_file: server.crt, key_file: somefile}\n",
    "certificate-is-a-key": "tls_server_config: {cert_file: server.key, key_file: server.key}\n",
    "other-key": "tls_server_config: {cert_file: server.crt, key_file: ca.key}\n",
    "certificate-is-a-list": "tls_server_config: {cert_file: [server.crt], key_file: server.key}\n",
    "only-versions": (
        "tls_server_config: {min_version: TLS13, cipher_suites: [TLS_AES_128_GCM_SHA256]}\n"
    ),
    "only-client-auth": "tls_server_config: {client_auth_type: NoClientCert}\n",
    "only-client-ca": "tls_server_config: {client_ca_file: ca.crt}\n",
    "client-ca-without-auth": TLS + "  client_ca_file: ca.crt\n",
    "client-ca-absent-without-auth": TLS + "  client_ca_file: somefile\n",
    "client-ca-absent": TLS
    + "  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: somefile\n",
    "client-ca-is-none": TLS
    + "  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: server.key\n",
    "client-auth-unknown": TLS + "  client_auth_type: Maybe\n",
    "client-auth-small": TLS + "  client_auth_type: requireandverifyclientcert\n",
    "client-auth-is-a-list": TLS + "  client_auth_type: [NoClientCert]\n",
    **{f"client-auth-{kind}": TLS + f"  client_auth_type: {kind}\n" for kind in CLIENT_AUTH},
    "clients": CLIENTS,
    **{f"min-{version}": TLS + f"  min_version: {version}\n" for version in VERSIONS},
    **{f"max-{version}": TLS + f"  max_version: {version}\n" for version in VERSIONS},
    "min-unknown": TLS + "  min_version: TLS111\n",
    "min-number": TLS + "  min_version: 1.2\n",
    "min-empty": TLS + "  min_version: ''\n",
    "min-above-max": TLS + "  min_version: TLS13\n  max_version: TLS12\n",
    **{f"cipher-{name}": TLS + f"  cipher_suites: [{name}]\n" for name in CIPHERS},
    "ciphers-all": TLS + "  cipher_suites:\n" + "".join(f"  - {name}\n" for name in CIPHERS),
    "ciphers-twice": TLS + f"  cipher_suites: [{CIPHERS[-1]}, {CIPHERS[-1]}]\n",
    "cipher-invented": TLS + "  cipher_suites: [TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA2048]\n",
    "cipher-insecure": TLS + "  cipher_suites: [TLS_RSA_WITH_RC4_128_SHA]\n",
    "cipher-old-name": TLS + "  cipher_suites: [TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305]\n",
    "sans-null-element": CLIENTS + "  client_allowed_sans: [~]\n",
    "cipher-null": TLS + "  cipher_suites: [~]\n",
    "cipher-empty": TLS + "  cipher_suites: ['']\n",
    "cipher-is-one-text": TLS + f"  cipher_suites: {CIPHERS[-1]}\n",
    "ciphers-are-empty-text": TLS + "  cipher_suites: ''\n",
    "ciphers-of-tls-13-up-to-tls-12": TLS
    + f"  cipher_suites: [{CIPHERS[0]}]\n  max_version: TLS12\n",
    **{f"curve-{name}": TLS + f"  curve_preferences: [{name}]\n" for name in CURVES},
    "curves-all": TLS + "  curve_preferences:\n" + "".join(f"    - {name}\n" for name in CURVES),
    "curve-invented": TLS + "  curve_preferences: [CurveP257]\n",
    "curve-null": TLS + "  curve_preferences: [~]\n",
    "curve-is-one-text": TLS + "  curve_preferences: X25519\n",
    **{
        f"prefer-{text}": TLS + f"  prefer_server_cipher_suites: {text}\n"
        for text in ("true", "no", "Off", "TRUE", "y", "1", "'true'", "maybe", "''", "[true]")
    },
    # http_server_config
    "http2": "http_server_config: {http2: false}\n",
    "http2-on": "http_server_config: {http2: on}\n",
    "http2-null": "http_server_config: {http2: }\n",
    "http2-number": "http_server_config: {http2: 2}\n",
    "headers": HEADERS
    + (
        "    X-Frame-Options: deny\n"
        "    Strict-Transport-Security: max-age=31536000; includeSubDomains\n"
        "    X-Content-Type-Options: nosniff\n"
        "    X-XSS-Protection: 1\n"
        "    Content-Security-Policy: \"default-src 'self' *.test.example.net\"\n"
    ),
    "headers-null": "http_server_config: {headers: }\n",
    "headers-text": "http_server_config: {headers: x}\n",
    **{
        f"header-{text}": HEADERS + f"    X-XSS-Protection: {text}\n"
        for text in (
            *("0", "1; mode=block", "''", "~", "yes", "0x10", "1_000", "1e3", "2026-01-02"),
            *("[a]", "{a: b}", "é", '"a\\tb"', '"a\\nb"', '"a\\x00b"', "'\"x\"'"),
        )
    },
    "header-frame": HEADERS + "    X-Frame-Options: sameorigin\n",
    "header-frame-foo": HEADERS + "    X-Frame-Options: foo\n",
    "header-frame-capitals": HEADERS + "    X-Frame-Options: DENY\n",
    "header-frame-blank": HEADERS + "    X-Frame-Options:\n",
    "header-sniff": HEADERS + "    X-Content-Type-Options: sniff\n",
    "header-other": HEADERS + "    Content-Type: foo\n",
    "header-small-letters": HEADERS + "    x-frame-options: deny\n",
    # basic_auth_users
    "users": USERS + f"  alice: {HASH}\n  bob: {HASH}\n",
    "users-with-tls": TLS + USERS + f"  alice: {HASH}\n",
    "users-null": USERS,
    "users-list": USERS + "  - alice\n",
    "user-number": USERS + f"  1001: {HASH}\n",
    "user-octal": USERS + f"  0660: {HASH}\n",
    "user-yes": USERS + f"  yes: {HASH}\n  off: {HASH}\n",
    "user-date": USERS + f"  2026-01-02: {HASH}\n",
    "user-null": USERS + f"  ~: {HASH}\n",
    "user-empty": USERS + f"  '': {HASH}\n",
    "user-letters": USERS + f"  jörg ✓: {HASH}\n",
    "user-colon": USERS + f"  'a:b': {HASH}\n",
    "user-twice": USERS + f"  a: {HASH}\n  a: {HASH}\n",
    "user-number-twice": USERS + f"  1: {HASH}\n  '1': {HASH}\n",
    "password-plain": USERS + "  john: doe\n",
    "password-null": USERS + "  john:\n",
    "password-number": USERS + "  john: 123456\n",
    "password-list": USERS + f"  john: [{HASH}]\n",
    "password-quoted": USERS + f"  john: '{HASH}'\n",
    "password-block": USERS + f"  john: |\n    {HASH}\n",
    "password-folded": USERS + f"  john: >-\n    {HASH}\n",
    "password-comment": USERS + f"  john: {HASH} # the hash\n",
    "password-short": USERS + f"  john: {HASH[:58]}\n",
    "password-garbage": USERS + f"  john: {HASH[:59]}!\n",
    **{
        f"password-variant-{variant}": USERS + f"  john: {HASH.replace('$2y$', f'$2{variant}$')}\n"
        for variant in ("", "a", "b", "x", "z")
    },
    "password-sha": USERS + "  john: $6$abcdefgh$" + "a" * 86 + "\n",
    **{
        f"cost-{cost}": USERS + f"  john: {HASH.replace('$10$', f'${cost}$')}\n"
        for cost in ("03", "04", "16", "17", "31", "32", "xx")
    },
    # Keys that are newer than promtool 2.42: judged by exporter-toolkit 0.20 (NEWER).
    "inline": "tls_server_config:\n  cert: |\nSERVER_CRT  key: |\nSERVER_KEY",
    "inline-and-file": "tls_server_config:\n  cert_file: server.crt\n  key: |\nSERVER_KEY",
    "inline-empty": "tls_server_config: {cert: '', key_file: server.key}\n",
    "inline-beside-file": TLS + "  cert: |\nSERVER_CRT",
    "client-ca-inline": TLS + "  client_auth_type: VerifyClientCertIfGiven\n  client_ca: |\nCA_CRT",
    "sans": CLIENTS + "  client_allowed_sans: [a.example, 1001]\n",
    "sans-null": CLIENTS + "  client_allowed_sans:\n",
    "sans-none": CLIENTS + "  client_allowed_sans: []\n",
    "sans-is-one-text": CLIENTS + "  client_allowed_sans: a.example\n",
    "sans-are-empty-text": CLIENTS + "  client_allowed_sans: ''\n",
    "sans-without-clients": TLS + "  client_allowed_sans: [a]\n",
    "sans-without-tls": "tls_server_config: {client_allowed_sans: [a]}\n",
    "rate": "rate_limit: {interval: 1s, burst: 20}\n",
    **{
        f"rate-{text}": f"rate_limit: {{interval: {text}, burst: 1}}\n"
        for text in (
            *("0", "0s", "'0'", "100ms", "1.5s", "1h2m3s", ".5s", "1us", "1µs", "10ns", "'1s'"),
            *("", "~", "''", "1d", "1", "x", "-1s", "1 s", "1S", "+1s", "[1s]", "1e9"),
        )
    },
    **{
        f"burst-{text}": f"rate_limit: {{interval: 1s, burst: {text}}}\n"
        for text in ("1", "1_000", "0x10", "1e2", "010", "0", "-1", "1.5", "'5'", "x", "~", "[1]")
    },
    "rate-unknown-key": "rate_limit: {rate: 1}\n",
}

# The reasons, as docs/web.md words them (a part of a row of its tables).
OLD_TLS = "`min_version`, `max_version` below `TLS12`"
ANY_CLIENT = "`client_auth_type: RequireAnyClientCert`"
NO_CERTIFICATE = "`client_ca_file` without a certificate"
DEAD_VERSIONS = "`min_version` above `max_version`"
DEAD_CIPHERS = "`cipher_suites` for TLS 1.3 only with `max_version: TLS12`"
CONTROL = "a header with a control character"
COST = "a bcrypt cost above 16"
NO_HASH = "a hash that no password matches"
COLON = "a user name with a colon"
SECOND = "a second YAML document"
PYTHON_TAG = "a tag `!!python/…`"
TWO = "`cert` beside `cert_file`"
SANS = "`client_allowed_sans` without `RequireAndVerifyClientCert`"
UNIT = "`rate_limit.interval` without a unit, or negative"
BURST = "`rate_limit.burst` below 1, or not a whole number"
EMPTY = '`""` for a key that is no text'
ONE_TEXT = "one text in place of a list"
QUOTES = "a number or boolean in quotes, `1` and `0` as booleans"
TAGS = "a tag that does not fit its value"

WE_REFUSE = {
    "min-TLS10": OLD_TLS,
    "min-TLS11": OLD_TLS,
    "max-TLS10": OLD_TLS,
    "max-TLS11": OLD_TLS,
    "client-auth-RequireAnyClientCert": ANY_CLIENT,
    "client-auth-RequireClientCert": ANY_CLIENT,
    "client-ca-is-none": NO_CERTIFICATE,
    "min-above-max": DEAD_VERSIONS,
    "ciphers-of-tls-13-up-to-tls-12": DEAD_CIPHERS,
    'header-"a\\nb"': CONTROL,
    'header-"a\\x00b"': CONTROL,
    "cost-17": COST,
    "cost-31": COST,
    "password-garbage": NO_HASH,
    "password-variant-z": NO_HASH,
    "user-colon": COLON,
    "second-document": SECOND,
    "tag-of-a-language": PYTHON_TAG,
    "inline-beside-file": TWO,
    "sans-without-clients": SANS,
    "sans-without-tls": SANS,
    "rate-1": UNIT,
    "rate-1e9": UNIT,
    "rate--1s": UNIT,
    "burst-0": BURST,
    "burst--1": BURST,
    "burst-~": BURST,
    "burst-1.5": BURST,
}
"""Reasons of files that promtool takes."""

WE_TAKE = {
    "min-empty": EMPTY,
    "prefer-''": EMPTY,
    "ciphers-are-empty-text": EMPTY,
    "header-frame-blank": EMPTY,
    "rate-''": EMPTY,
    "cipher-is-one-text": ONE_TEXT,
    "curve-is-one-text": ONE_TEXT,
    "sans-is-one-text": ONE_TEXT,
    "prefer-1": QUOTES,
    "prefer-'true'": QUOTES,
    "burst-'5'": QUOTES,
    "tag-that-does-not-fit": TAGS,
}
"""Reasons of files that promtool refuses."""

NEWER_KEYS = ("cert", "key", "client_ca", "client_allowed_sans", "rate_limit")
# Of the cases with these keys: those that exporter-toolkit 0.20 refuses.
NEWER_REFUSED = {
    *("inline-empty", "sans-is-one-text", "sans-are-empty-text", "rate-1d", "rate-x", "rate-1 s"),
    *("rate-1S", "rate-[1s]", "rate-''", "burst-'5'", "burst-x", "burst-[1]", "rate-unknown-key"),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Returns the file of each case, beside certificates."""
    folder = tmp_path_factory.mktemp("configurations") / "web"
    ca = authority(folder, "ca")
    server = signed(ca, folder, "server")

    def block(path: Path) -> str:
        return "".join(f"    {line}\n" for line in path.read_text().splitlines())

    replacements = {"SERVER_CRT": server.cert, "SERVER_KEY": server.key, "CA_CRT": ca.cert}
    files = {}
    for number, (name, text) in enumerate(CASES.items()):
        for mark, path in replacements.items():
            text = text.replace(mark, block(path))  # noqa: PLW2901
        files[name] = folder / f"{number}.yml"
        files[name].write_bytes(text.encode("utf-8", "surrogateescape"))
    return files


@pytest.fixture(scope="module")
def judgements(files: dict[str, Path]) -> dict[str, list[str]]:
    """Returns the error of each promtool by case; empty if it takes the file."""
    promtools = [shutil.which("promtool") or missing("no promtool")]
    promtools += [str(path) for path in NEWER_PROMTOOLS if path.exists()]
    errors: dict[str, list[str]] = {name: [] for name in files}
    for promtool in promtools:
        done = subprocess.run(
            [promtool, "check", "web-config", *files.values()],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        lines = (done.stdout + done.stderr).splitlines()
        for name, error in judgements_of(lines, {str(path): name for name, path in files.items()}):
            errors[name].append(error)
    assert {len(of_case) for of_case in errors.values()} == {len(promtools)}
    return errors


def judgements_of(lines: list[str], names: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Yields case and error from promtool's output. names: of the cases, by file."""
    name = error = ""
    for line in lines:
        if match := re.match(r"(\S+\.yml) (?:SUCCESS|FAILED: (.*))", line):
            if name:
                yield name, error
            name, error = names[match[1]], match[2] or ""
        else:
            error += line
    yield name, error


def refusal(file: Path) -> str:
    """Returns this exporter's error; empty if it takes the file."""
    try:
        load_web_config(str(file))
    except ConfigError as error:
        return str(error)
    return ""


@pytest.mark.real
@pytest.mark.parametrize("name", CASES)
def test_a_file_is_judged_as_promtool_judges_it(
    name: str, files: dict[str, Path], judgements: dict[str, list[str]]
) -> None:
    ours = refusal(files[name])
    assert not ours or ours.startswith(f"{files[name]}: ")
    assert "\n" not in ours
    for theirs in judgements[name]:
        compare(name, theirs, ours)


def compare(name: str, theirs: str, ours: str) -> None:
    """Fails if the errors of promtool and of this exporter differ without a reason."""
    if any(f"unknown cipher: {cipher}" in theirs for cipher in CIPHERS):
        theirs = ""  # of a promtool that is built with a newer Go
    if any(f"field {key} not found" in theirs for key in NEWER_KEYS):
        theirs = "refused" if name in NEWER_REFUSED else ""
    if name in WE_REFUSE:
        assert (bool(theirs), bool(ours)) == (False, True), (theirs, ours)
    elif name in WE_TAKE:
        assert (bool(theirs), bool(ours)) == (True, False), (theirs, ours)
    else:
        assert bool(theirs) == bool(ours), (theirs, ours)


@pytest.mark.parametrize("reason", sorted({*WE_REFUSE.values(), *WE_TAKE.values()}))
def test_the_documentation_gives_the_reason_of_a_difference(reason: str) -> None:
    assert f"| {reason} |" in (ROOT / "docs/web.md").read_text()


def test_header_of_a_number(files: dict[str, Path]) -> None:
    assert load_web_config(str(files["header-0"])).configuration.headers == {
        "X-XSS-Protection": "0"
    }


def test_blank_keys(files: dict[str, Path]) -> None:
    loaded = load_web_config(str(files["blank-keys"]))
    assert loaded.describe() == "TLS 1.2 and newer"
    assert loaded.warnings == ()


def test_what_is_taken_has_the_value_that_is_written(files: dict[str, Path]) -> None:
    def headers(name: str) -> dict[str, str]:
        return load_web_config(str(files[name])).configuration.headers

    def users(name: str) -> set[str]:
        return set(load_web_config(str(files[name])).configuration.basic_auth_users)

    texts = ("yes", "0x10", "1_000", "1e3", "2026-01-02", "é")
    assert [headers(f"header-{text}")["X-XSS-Protection"] for text in texts] == list(texts)
    assert headers("header-~") == headers("header-''") == headers("header-frame-blank") == {}
    assert users("user-number") == {"1001"}
    assert users("user-octal") == {"0660"}
    assert users("user-yes") == {"yes", "off"}
    assert users("user-date") == {"2026-01-02"}
    assert users("user-null") == users("user-empty") == {""}
    assert users("merge") == {"a", "b"}
    rates = {"1.5s": 1.5, "1h2m3s": 3723, ".5s": 0.5, "1us": 1e-6, "1µs": 1e-6, "10ns": 1e-8}
    for text, seconds in rates.items():
        limit = load_web_config(str(files[f"rate-{text}"])).configuration.rate_limit
        assert limit is not None
        assert limit.interval == pytest.approx(seconds)
    for text, burst in {"1_000": 1000, "0x10": 16, "1e2": 100, "010": 8, "'5'": 5}.items():
        limit = load_web_config(str(files[f"burst-{text}"])).configuration.rate_limit
        assert limit is not None
        assert limit.burst == burst
    for text in ("0", "0s", "'0'", "", "~", "''"):
        assert load_web_config(str(files[f"rate-{text}"])).configuration.rate_limit is None
    (warning,) = load_web_config(str(files["only-versions"])).warnings
    assert "plain HTTP is served" in warning
