import io
import tarfile

import pytest
from makers import Plan, archive, draw, encode, header, member

from pipeline.core.errors import ShardError
from pipeline.shards.tar import members, samples

CONTENT = encode(draw(Plan(targets=True), 3, 0), "npy")


def walk(content: bytes) -> list[tuple[str, bytes]]:
    return [(name, bytes(payload)) for name, payload in members(content, "s.tar")]


@pytest.mark.parametrize("encoding", ["png", "npy"])
def test_members_are_those_that_tarfile_finds(encoding: str) -> None:
    content = encode(draw(Plan(encoding=encoding, channels=3, size=9, classes=1000, targets=True), 4, 0), encoding)
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        expected = [(info.name, tar.extractfile(info).read()) for info in tar.getmembers()]  # pyright: ignore
    assert walk(content) == expected


def test_payloads_of_any_length_are_read() -> None:
    payloads = [bytes([length % 251 + 1]) * length for length in (0, 1, 511, 512, 513, 1024, 5000)]
    content = archive(*(member(f"k{number}.npy", payload) for number, payload in enumerate(payloads)))
    assert [payload for _, payload in walk(content)] == payloads


def test_every_bit_flipped_in_a_header_is_an_error() -> None:
    for place in range(512):
        for bit in range(8):
            damaged = bytearray(CONTENT)
            damaged[1024 + place] ^= 1 << bit  # the second header: the first tar reader to lose it would not notice
            with pytest.raises(ShardError, match=r"^s\.tar: "):
                walk(bytes(damaged))


def test_every_bit_flipped_in_padding_or_in_the_end_is_an_error() -> None:
    used = len(CONTENT.rstrip(b"\0"))
    for place in [*range(513, 1024, 7), *range(-(-used // 512) * 512, len(CONTENT), 97)]:
        damaged = bytearray(CONTENT)
        damaged[place] ^= 1 << place % 8
        with pytest.raises(ShardError):
            walk(bytes(damaged))


def test_a_cut_is_an_error_until_only_spare_zeros_go() -> None:
    used = -(-len(CONTENT.rstrip(b"\0")) // 512) * 512
    whole = walk(CONTENT)
    for length in range(len(CONTENT)):
        if length % 512 == 0 and length >= used + 1024:
            assert walk(CONTENT[:length]) == whole
            continue
        with pytest.raises(ShardError):
            walk(CONTENT[:length])


def test_anything_after_the_end_is_an_error() -> None:
    for addition in (b"x" * 512, member("a.npy", b"1"), CONTENT):
        with pytest.raises(ShardError, match="nothing but zeros"):
            walk(CONTENT + addition)
    assert walk(CONTENT + bytes(512)) == walk(CONTENT)


def test_one_zero_block_is_no_end() -> None:
    with pytest.raises(ShardError, match="two zero blocks"):
        walk(member("a.npy", b"1") + bytes(512))
    with pytest.raises(ShardError, match="two zero blocks"):
        walk(member("a.npy", b"1") + bytes(512) + member("b.npy", b"1") + bytes(1024))


def test_two_damages_that_cancel_in_the_checksum_still_meet_the_field_checks() -> None:
    block = bytearray(header(b"a.npy", 0))
    for place in (*range(100, 124), *range(136, 148), *range(157, 257), *range(265, 512)):
        damaged = bytearray(block)
        damaged[place] = (damaged[place] + 1) % 256
        damaged[4] -= 1  # npy becomes npx: the sum of all bytes stays
        content = bytes(damaged) + bytes(1024)
        try:
            found = walk(content)
        except ShardError:
            continue
        assert found == [("a.npx", b"")]  # only a digit that says nothing, such as the mode's, may differ
        assert 100 <= place < 124 or 136 <= place < 148
        assert chr(damaged[place]) in "01234567"


def test_samples_may_hold_their_members_in_any_order() -> None:
    content = archive(member("a.npy", b"1"), member("a.cls", b"2"), member("b.cls", b"3"), member("b.npy", b"4"))
    found = [
        (key, {name: bytes(payload) for name, payload in held.items()})
        for key, held in samples(content, "s", {"cls", "npy"}, 2)
    ]
    assert found == [("a", {"npy": b"1", "cls": b"2"}), ("b", {"cls": b"3", "npy": b"4"})]


def test_nothing_is_copied() -> None:
    content = bytearray(archive(member("a.npy", b"1")))
    (_, payload) = next(members(content, "s"))
    assert payload.readonly
    assert payload.obj is content
