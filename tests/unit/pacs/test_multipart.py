"""multipart/related: parts come back as they were, or the reader says what is wrong."""

from __future__ import annotations

import contextlib
import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from medseg.pacs.multipart import Part, PartTooLargeError, boundary_of, read_parts

BOUNDARIES = st.from_regex(r"[0-9A-Za-z'()+_,./:=?-]{1,70}", fullmatch=True)
# Much of what marks the ends of parts, so that bodies come near to them.
BODIES = st.lists(
    st.one_of(
        st.binary(max_size=40), st.sampled_from([b"\r\n", b"--", b"\r\n--", b"\n", b"\r", b"--b", b"b"])
    )
).map(b"".join)
PARTS = st.lists(BODIES, min_size=1, max_size=5)
HEAD = b"Content-Type: application/dicom\r\n\r\n"


def message(
    boundary: str, bodies, *, head: bytes = HEAD, preamble: bytes = b"", epilogue: bytes = b""
) -> bytes:
    mark = b"--" + boundary.encode()
    parts = b"".join(mark + b"\r\n" + head + body + b"\r\n" for body in bodies)
    return preamble + parts + mark + b"--" + epilogue


def header(boundary: str) -> str:
    return f'multipart/related; type="application/dicom"; boundary="{boundary}"'


def cut(content: bytes, places) -> list[bytes]:
    ends = sorted({place % (len(content) + 1) for place in places} | {0, len(content)})
    return [content[a:b] for a, b in itertools.pairwise(ends)]


def read(boundary: str, chunks, limit: int = 1 << 20) -> list[bytes]:
    return [part.content for part in read_parts(header(boundary), chunks, part_limit=limit)]


def read_until_error(boundary: str, chunks) -> tuple[list[bytes], str]:
    """The parts before an error, and its sentence; no error but ValueError is let through."""
    got: list[bytes] = []
    try:
        for part in read_parts(header(boundary), chunks, part_limit=1 << 20):
            got.append(part.content)
    except ValueError as err:
        return got, str(err)
    return got, ""


def fits(boundary: str, bodies) -> bool:
    """Whether no body has the mark that ends it; a writer has to see to that."""
    return not any(b"\r\n--" + boundary.encode() in b"\r\n" + body + b"\r" for body in bodies)


@given(BOUNDARIES, PARTS, st.lists(st.integers(0, 1 << 16)))
@example("b", [b"", b"\r\n", b"--", b"\r\n-", b"\r"], [])
def test_parts_come_back_whatever_the_chunks(boundary: str, bodies, places):
    if fits(boundary, bodies):
        assert read(boundary, cut(message(boundary, bodies), places)) == bodies


@given(BOUNDARIES, PARTS)
def test_parts_come_back_byte_by_byte(boundary: str, bodies):
    if fits(boundary, bodies):
        content = message(boundary, bodies)
        assert read(boundary, [content[at : at + 1] for at in range(len(content))]) == bodies


@given(BOUNDARIES, PARTS, st.data())
def test_a_truncated_message_is_never_taken_for_a_whole_one(boundary: str, bodies, data):
    if not fits(boundary, bodies):
        return
    content = message(boundary, bodies)
    short = content[: data.draw(st.integers(0, len(content) - 1))]
    got, error = read_until_error(boundary, [short])
    assert "truncated" in error
    assert got == bodies[: len(got)]


@given(BOUNDARIES, PARTS, st.data())
def test_a_damaged_message_gives_parts_or_a_value_error(boundary: str, bodies, data):
    content = bytearray(message(boundary, bodies))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    got, _ = read_until_error(boundary, cut(bytes(content), [7, 50, 90]))
    assert sum(map(len, got)) <= len(content)


@given(st.binary(max_size=300), st.lists(st.integers(0, 300)))
def test_noise_is_refused(noise: bytes, places):
    if b"--edge" not in noise:
        with pytest.raises(ValueError, match="truncated"):
            read("edge", cut(noise, places))


@given(st.one_of(st.text(), st.text().map("multipart/related; boundary={}".format)))
@example("multipart/related; boundary*=utf-8''b")
@example("multipart/related; boundary=" + "b" * 201)
@example("multipart/related; boundary=a\r\nb")
@example('multipart/related; boundary="')
@example("application/dicom; boundary=b")
def test_any_content_type_gives_a_boundary_or_a_value_error(content_type: str):
    with contextlib.suppress(ValueError):
        boundary = boundary_of(content_type)
        assert 0 < len(boundary) <= 200
        assert boundary.isascii()


@pytest.mark.parametrize("chunk", [1, 7, 1 << 16])
def test_what_stands_before_and_after_does_not_count(chunk: int):
    content = message("b", [b"one", b"two"], preamble=b"hello\r\n", epilogue=b"\r\nbye\r\n--b\r\n")
    assert read("b", [content[at : at + chunk] for at in range(0, len(content), chunk)]) == [b"one", b"two"]


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"\r\n", ""),
        (b"content-TYPE:Application/DICOM; transfer-syntax=*\r\n\r\n", "application/dicom"),
        (b"X: y\r\nContent-Type: image/jp2\r\nContent-Location: a:b\r\n\r\n", "image/jp2"),
        (b"Content-Type:\r\n\tapplication/dicom\r\n\r\n", "application/dicom"),
        (b"X: y\r\n Content-Type: image/jp2\r\n\r\n", ""),
    ],
)
def test_the_content_type_of_a_part(head: bytes, kind: str):
    content = message("b", [b"\r\n\r\nx"], head=head)
    assert list(read_parts(header("b"), [content], part_limit=99)) == [
        Part(content_type=kind, content=b"\r\n\r\nx")
    ]


def test_a_mark_within_a_body_is_an_error_not_two_parts():
    with pytest.raises(ValueError, match="something else than a line end"):
        read("b", [message("b", [b"pixels\r\n--boundless"])])


@pytest.mark.parametrize("size", [99, 100, 101])
def test_parts_up_to_the_limit(size: int):
    content = message("b", [bytes(size)])
    if size <= 100:
        assert read("b", [content], 100) == [bytes(size)]
    else:
        with pytest.raises(PartTooLargeError, match="more than 100 bytes"):
            read("b", [content], 100)


def test_endless_input_is_not_kept():
    for endless, sentence in [
        (b"", "no boundary at the beginning"),
        (b"--b\r\n" + HEAD, "more than 100 bytes"),
        (b"--b\r\nX: ", "more than 100 bytes"),
    ]:
        taken = itertools.count()
        chunks = itertools.chain([endless], (bytes(4096) for _ in taken))
        with pytest.raises(ValueError, match=sentence):
            read("b", chunks, 100)
        assert next(taken) < 30


def test_a_huge_head_is_refused():
    with pytest.raises(ValueError, match="no end of its head"):
        read("b", [message("b", [b"x"], head=b"X: " + b"y" * (1 << 15) + b"\r\n\r\n")])


def test_many_small_parts_in_one_chunk_take_no_quadratic_time():
    bodies = [b"x" * 50] * 20_000
    assert read("b", [message("b", bodies)]) == bodies
