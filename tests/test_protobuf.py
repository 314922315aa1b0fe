"""The reader of protobuf messages, beside Google's library."""

from __future__ import annotations

import contextlib
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import field

from exporter.faults import Faults
from exporter.protobuf import (
    MAX_ELEMENTS,
    MAX_FIELDS,
    InvalidMessage,
    Limit,
    Message,
    decode,
    encode,
)
from exporter.sources.containers.cri.messages import ContainerStatusReply
from tests.choices import TEN_EXAMPLES, ten
from tests.fakes.cri import messages

SHORT_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
# The length of a longer one takes two bytes.
TEXT = SHORT_TEXT | st.text("xé€", min_size=20, max_size=20).map(lambda text: 10 * text)


class Inner(Message):
    text: Annotated[str, 1] = ""


class Sample(Message):
    text: Annotated[str, 1, Limit(4)] = ""
    number: Annotated[int, 2] = 0
    inner: Annotated[Inner | None, 3] = None
    list_: Annotated[list[Inner], 4] = field(default_factory=list)
    names: Annotated[dict[str, str], 5, Limit(2)] = field(default_factory=dict)
    flag: Annotated[bool, 6] = False


@TEN_EXAMPLES
@given(
    ten(
        st.tuples(
            TEXT,
            st.integers(-(2**63), 2**63 - 1),
            st.integers(-(2**31), 2**31 - 1),
            st.dictionaries(TEXT, TEXT, max_size=5),
        )
    )
)
def test_reads_what_googles_library_writes(
    replies: list[tuple[str, int, int, dict[str, str]]],
) -> None:
    module = messages()
    for text, time, code, info in replies:
        status = module.ContainerStatus(
            reason=text, started_at=time, exit_code=code, image=module.ImageSpec(image=text)
        )
        data = module.ContainerStatusResponse(status=status, info=info).SerializeToString()
        faults = Faults()
        reply = decode(data, ContainerStatusReply, faults)
        assert not faults.count
        assert reply.status is not None
        assert reply.status.image is not None
        assert (reply.status.reason, reply.status.image.image) == (text, text)
        assert (reply.status.started, reply.status.exit_code) == (time, code)
        assert reply.info == info


@TEN_EXAMPLES
@given(ten(st.tuples(TEXT, st.booleans())))
def test_googles_library_reads_what_is_written(requests: list[tuple[str, bool]]) -> None:
    for text, verbose in requests:
        request = messages().ContainerStatusRequest.FromString(encode({1: text, 2: verbose}))
        assert (request.container_id, request.verbose) == (text, verbose)


@TEN_EXAMPLES
@given(ten(st.binary(max_size=200)))
def test_any_bytes_are_read_or_refused(bodies: list[bytes]) -> None:
    for data in bodies:
        with contextlib.suppress(InvalidMessage):
            decode(data, Sample, Faults())


@pytest.mark.parametrize(
    ("data", "expected", "fault"),
    [
        (b"\x0a\x02ok\x10\x07", Sample("ok", 7), ""),
        (b"\x0a\x06longer", Sample("long"), ""),
        (b"\x0a\x02\xff\xfe", Sample("\ufffd\ufffd"), ""),
        (b"\x08\x01\x10\x07", Sample(number=7), "Sample.text: wire type 0"),
        (b"\x12\x01x", Sample(), "Sample.number: wire type 2 of a number"),
        (b"\x1a\x02\x0a\x05\x10\x07", Sample(number=7), "Sample.inner: a field of 5 bytes"),
        (b"\x22\x01\xff\x22\x03\x0a\x01b", Sample(list_=[Inner("b")]), "Sample.list_: its end"),
        (b"\x25abcd\x79abcdefgh\x0a\x01x", Sample("x"), "Sample.list_: wire type 5"),
        (b"\x7a\x01x\x70\x01\x10\x03", Sample(number=3), ""),
        (b"\x82\x01\x01x\x90\x01\x01\x10\x03", Sample(number=3), ""),
        (b"\x10" + b"\xff" * 9 + b"\x01", Sample(number=-1), ""),
        (b"\x30\x01", Sample(flag=True), ""),
        (b"\x2a\x06\x0a\x01a\x12\x01b", Sample(names={"a": "b"}), ""),
        (b"\x2a\x03\x0a\x01a\x10\x01", Sample(names={"a": ""}), None),
    ],
)
def test_a_field_that_does_not_match_costs_itself(
    data: bytes, expected: Sample, fault: str | None
) -> None:
    faults = Faults()
    if fault is None:
        with pytest.raises(InvalidMessage):
            decode(data[:-1], Sample, faults)
        return
    assert decode(data, Sample, faults) == expected
    assert faults.first.startswith(fault)
    assert faults.count == bool(fault)


@pytest.mark.parametrize("data", [b"\x0a", b"\x0a\x05x", b"\x0b", b"\xff" * 11, b"\x10", b"\x82"])
def test_bytes_that_are_no_message(data: bytes) -> None:
    with pytest.raises(InvalidMessage):
        decode(data, Sample, Faults())


def test_the_limits() -> None:
    faults = Faults()
    read: Any = decode(b"\x22\x00" * (MAX_ELEMENTS + 2), Sample, faults)
    assert len(read.list_) == MAX_ELEMENTS
    assert faults.count == 2
    many = b"".join(b"\x2a\x03\x0a\x01" + bytes((97 + n,)) for n in range(4))
    assert decode(many, Sample, Faults()).names == {"a": "", "b": ""}
    with pytest.raises(InvalidMessage, match="more than 100000 fields"):
        decode(b"\x7a\x00" * (MAX_FIELDS + 1), Sample, Faults())


@pytest.mark.parametrize("key", [b"\x1a", b"\x22", b"\x2a"], ids=["message", "list", "map"])
def test_the_fields_of_inner_messages_count_too(key: bytes) -> None:
    size = 2 * (MAX_FIELDS // 2)
    inner = (
        key
        + bytes((size & 0x7F | 0x80, size >> 7 & 0x7F | 0x80, size >> 14))
        + (b"\x78\x01" * (size // 2))
    )
    assert decode(inner, Sample, Faults()) is not None
    with pytest.raises(InvalidMessage, match="more than 100000 fields"):
        decode(inner * 2, Sample, Faults())
