"""Regular expressions of the settings: linear in time, and the defaults match what they did."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.config import load
from exporter.errors import ConfigError
from exporter.patterns import Pattern
from exporter.sources.host.settings import Settings as HostSettings
from exporter.upstream import triton
from exporter.upstream.settings import Settings as UpstreamSettings
from tests import clean_interpreter
from tests.choices import TEN_EXAMPLES, ten
from tests.clean_interpreter import COMMAND_LINE


def test_the_whole_text_must_match() -> None:
    pattern = Pattern("a.b|c")
    assert pattern.fullmatch("axb")
    assert pattern.fullmatch("c")
    assert not any(map(pattern.fullmatch, ("axbx", "xaxb", "a\nb", "", "cc")))
    assert Pattern("").fullmatch("")
    assert not Pattern("").fullmatch("a")


def test_text_that_is_not_utf8_matches() -> None:
    pattern = Pattern("/proc(/.*)?")
    assert pattern.fullmatch(b"/proc/\xff\xfe")
    assert pattern.fullmatch("/proc/\udcff")
    assert pattern.fullmatch("/proc/\ud800")
    assert Pattern("ü.").fullmatch("ü€".encode())


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ("([a-z0-9]+-?)+", "a" * 60 + "!"),
        ("(a|a)*b", "a" * 60),
        ("(.*)*x", "y" * 100_000),
        ("(a?){500}b", "a" * 500),
        ("(a|b)*a(a|b){14}", "ab" * 50_000),
    ],
)
def test_no_text_takes_long(expression: str, text: str) -> None:
    """Python's `re` takes years for the first ones, with the GIL held."""
    pattern = Pattern(expression)
    started = time.monotonic()
    pattern.fullmatch(text)
    assert time.monotonic() - started < 20


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("(", "missing )"),
        ("(?!a).*", "without lookarounds"),
        ("(?<=a)b", "without lookarounds"),
        (r"(a)\1", "without lookarounds and back-references"),
        (r"a\Z", r"\z instead of \Z"),
        ("a{,3}", "write {0,3}"),
        ("((a{100}){100}){100}", "repetition"),
        ("\udcff", "not UTF-8"),
    ],
)
def test_what_re2_does_not_take_is_refused(expression: str, reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)) as caught:
        Pattern(expression)
    assert repr(expression) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "key",
    [
        *("containers.name_include", "containers.name_exclude"),
        *("containers.image_include", "containers.image_exclude"),
        *("containers.label_include", "containers.label_exclude"),
        *("host.network_exclude", "host.disk_exclude"),
        *("host.filesystem_type_exclude", "host.mountpoint_exclude"),
        *("upstream.keep", "upstream.drop"),
    ],
)
def test_every_setting_that_is_a_pattern(key: str, capfd: pytest.CaptureFixture[str]) -> None:
    load(None, {}, {key: [r"([a-z0-9]+-?)+"]})
    with pytest.raises(ConfigError) as caught:
        load(None, {}, {key: ["(?!a).*"]})
    flag = "--" + key.replace("_", "-")
    assert str(caught.value).startswith(f"flag {flag}: {key}: '(?!a).*' is not a valid regular")
    assert capfd.readouterr() == ("", ""), "RE2 logs nothing itself"


def test_the_settings_and_their_defaults_load_no_engine() -> None:
    script = (
        "import sys\nfrom exporter.config import load\n"
        "load(None, {}, {'upstream.url': ['a=http://localhost:1']})\nprint('re2' in sys.modules)"
    )
    done = clean_interpreter.run(script, after=COMMAND_LINE)
    assert (done.stdout, done.stderr) == ("False\n", "")


def defaults() -> Iterator[tuple[str, str]]:
    """Yields every default expression by the key of its setting."""
    for field in msgspec.structs.fields(HostSettings):
        if field.name.endswith("_exclude"):
            yield field.name, field.default
    for rule in UpstreamSettings().drop:
        yield "drop", rule
    yield "triton", triton.BETTER_ELSEWHERE


DEFAULTS = dict(defaults())
NAMES = [
    name
    for line in (
        "veth1a2b cali123 lxc0123abcd lxc0123abc lxc_health eni0123456789 eth0 enp1s0 lo",
        "docker0 br-1 veth zram0 ram1 loop12 fd0 sr0 sda sda1 nvme0n1 dm-0 md127 loop autofs",
        "cgroup cgroup2 cgroup22 ext4 xfs btrfs zfs tmpfs overlay nfs nfs4 nfs5 nfsd smb smb3",
        "smbfs gfs gfs2 9p virtiofs fuse fuse.sshfs fuseblk fuseblk.ntfs fusex squashfs vfat /",
        "/dev /dev/shm /device /proc /proc/sys/fs /sys /sys/ /run /run/docker /run/docker/x",
        "/run/user/0 /run/credentials/a.service /var/lib/docker /var/lib/docker/overlay2/x",
        "/var/lib/dockerx /var/lib/kubelet /var/lib/containers/storage /home /boot/efi",
        "/mnt/data process_cpu_seconds_total python_info go_goroutines promhttp_x processor_x",
        "process xprocess_y nv_gpu_utilization nv_cpu_utilization nv_energy_consumption",
        "nv_inference_count nv_inference_exec_count nv_inference_request_success",
        "nv_inference_request_failure nv_inference_queue_duration_us",
        "nv_inference_pending_request_count nv_cache_num_hits_per_model",
        "nv_cache_hit_duration_us_per_model nv_inference_request_summary_us",
    )
    for name in line.split()
]


def test_the_defaults_are_all_there() -> None:
    assert set(DEFAULTS) == {
        *("network_exclude", "disk_exclude", "filesystem_type_exclude", "mountpoint_exclude"),
        *("drop", "triton"),
    }


@pytest.mark.parametrize("key", DEFAULTS)
def test_a_default_matches_the_same_names_as_before(key: str) -> None:
    pattern, former = Pattern(DEFAULTS[key]), re.compile(DEFAULTS[key])
    matches = {name: former.fullmatch(name) is not None for name in NAMES}
    assert len(set(matches.values())) == 2, "some of the names match, some do not"
    assert {name: pattern.fullmatch(name) for name in NAMES} == matches


@pytest.mark.parametrize("key", DEFAULTS)
def test_a_default_is_matched_without_re2_alike(key: str) -> None:
    pattern, of_re2 = Pattern.of_default(DEFAULTS[key]), Pattern(DEFAULTS[key])
    names: list[str | bytes] = [*NAMES, "/proc/\udcff", "/proc/a\nb", "veth\n", "loop\u0663", ""]
    names += [b"/proc/\xff\xfe", b"veth\xff", b"fuse.\xff"]
    assert [pattern.fullmatch(name) for name in names] == [of_re2.fullmatch(name) for name in names]


@pytest.mark.parametrize("key", DEFAULTS)
@pytest.mark.parametrize("repeated", ["veth", "loop1", "/proc/", "fuse.", "lxc0", "0", "nv_"])
def test_a_default_takes_linear_time(key: str, repeated: str) -> None:
    pattern = Pattern.of_default(DEFAULTS[key])
    started = time.monotonic()
    pattern.fullmatch(repeated * 100_000 + "\n")
    assert time.monotonic() - started < 20


@TEN_EXAMPLES
@given(ten(st.tuples(st.text("ab_-|", max_size=8), st.text("ab_-|\n", max_size=4))))
def test_words_are_matched_without_re2_alike(pairs: list[tuple[str, str]]) -> None:
    for words, text in pairs:
        pattern, of_re2 = Pattern(words), Pattern(f"(?:{words})")
        for name in (text, *words.split("|")):
            assert pattern.fullmatch(name) is of_re2.fullmatch(name)


def test_another_expression_than_the_default_is_of_re2() -> None:
    pattern = Pattern.of_setting(HostSettings(disk_exclude="([a-z0-9]+-?)+"), "disk_exclude")
    started = time.monotonic()
    assert not pattern.fullmatch("a" * 60 + "!")
    assert time.monotonic() - started < 20


def generated_names(expression: str) -> st.SearchStrategy[list[str]]:
    """Returns a strategy of names: some match the expression, the others are any text."""
    others = st.text(st.characters(exclude_categories=["Cs", "Nd"]))
    return ten(st.from_regex(re.compile(expression, re.ASCII), fullmatch=True) | others)


# Here, not in the test: hypothesis builds a strategy at each call.
GENERATED_NAMES = {key: generated_names(expression) for key, expression in DEFAULTS.items()}


@pytest.mark.parametrize("key", DEFAULTS)
def test_a_default_matches_the_same_generated_names(key: str) -> None:
    pattern, former = Pattern(DEFAULTS[key]), re.compile(DEFAULTS[key])

    @TEN_EXAMPLES
    @given(GENERATED_NAMES[key])
    def match_alike(names: list[str]) -> None:
        for name in names:
            assert pattern.fullmatch(name) is (former.fullmatch(name) is not None)

    match_alike()
