"""What hostile datasets do to a reader: nothing. Each case has a manifest that fits it, as its author would make."""

import gzip
import io
import json
import os
import pickle
import selectors
import struct
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from makers import Plan, archive, draw, encode, forge, header, member, npy, padded, parts, raw_npy, write
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
PLAN = Plan()
PNG = Plan(encoding="png", channels=3, size=32)
SECONDS = 20
GROWTH = 200 << 20  # bytes that reading hostile files of a few MB may take at most


class Worker:
    """Reads datasets in a child that may use 4 GB and 20 seconds."""

    def __init__(self) -> None:
        command = [sys.executable, str(Path(__file__).with_name("attack_worker.py"))]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        self._child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True, cwd=ROOT
        )
        self._base = self._answer(120)["peak"]

    def read(self, folder: Path) -> str | None:
        """The error's message, or None; fails when the child hangs, dies or takes much memory."""
        assert self._child.stdin is not None
        self._child.stdin.write(f"{folder}\n")
        self._child.stdin.flush()
        answer = self._answer(SECONDS)
        assert answer["peak"] - self._base < GROWTH
        return answer["error"]

    def close(self) -> None:
        self._child.kill()
        self._child.wait()

    def _answer(self, seconds: float) -> dict:
        assert self._child.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._child.stdout, selectors.EVENT_READ)
            assert selector.select(seconds), "the reader hangs"
        line = self._child.stdout.readline()
        assert line, f"the reader died: {self._child.wait(5)}"
        return json.loads(line)


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    worker = Worker()
    yield worker
    worker.close()


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "pwned"


class Pwn:
    """Touches a file when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self._canary = canary

    def __reduce__(self) -> tuple:
        return Path.touch, (self._canary,)


def refused(worker: Worker, folder: Path, *words: str) -> str:
    """The dataset is refused by one short line with the file's name and these words."""
    error = worker.read(folder)
    assert error is not None
    for word in ("train-00000.tar", *words):
        assert word in error
    assert "\n" not in error
    assert error.isprintable()
    assert len(error) < 500 + len(str(folder))
    return error


def sample(**payloads: bytes) -> bytes:
    """A shard of one good sample, some payloads replaced."""
    return archive(*(member(name, payload) for name, payload in parts(PLAN, **payloads).items()))


def test_the_hand_made_sample_is_good(worker: Worker, tmp_path: Path) -> None:
    assert worker.read(forge(tmp_path / "set", sample(), PLAN)) is None


@pytest.mark.parametrize("extension", ["pyd", "pkl", "pickle", "pth", "json", "npz", "png", "cls2", "npy.gz"])
def test_s1_members_of_other_types_are_refused_and_never_unpickled(
    worker: Worker, tmp_path: Path, canary: Path, extension: str
) -> None:
    shard = archive(member(f"t00000-00000.{extension}", pickle.dumps(Pwn(canary))))
    refused(worker, forge(tmp_path / "set", shard, PLAN), f"member type .{extension} not allowed")
    assert not canary.exists()


def test_s2_no_switch_of_webdataset_matters(
    worker: Worker, tmp_path: Path, canary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WDS_SECURE", "1")
    added = member("t00000-00000.x.pyd", pickle.dumps(Pwn(canary)))
    shard = archive(*(member(name, payload) for name, payload in parts(PLAN).items()), added)
    refused(worker, forge(tmp_path / "set", shard, PLAN), "t00000-00000.x.pyd", "not allowed")
    assert not canary.exists()


def test_s3_an_array_of_objects_is_refused(worker: Worker, tmp_path: Path, canary: Path) -> None:
    stream = io.BytesIO()
    np.save(stream, np.array([Pwn(canary)], dtype=object), allow_pickle=True)
    shard = sample(npy=stream.getvalue())
    refused(worker, forge(tmp_path / "set", shard, PLAN), "t00000-00000.npy", "'|O'", "expected")
    assert not canary.exists()


def text(descr: str = "<f2", order: str = "False", shape: str = "(1, 4, 4)") -> bytes:
    return f"{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}\n".encode()


@pytest.mark.parametrize(
    "payload",
    [
        raw_npy(text(shape="(1000000000000,)"), b""),
        raw_npy(text(shape="(1, 4, 4, 1)"), bytes(32)),
        raw_npy(text(shape="(16,)"), bytes(32)),
        raw_npy(text(descr="|V0"), b""),
        raw_npy(text(descr=">f2"), bytes(32)),
        raw_npy(text(descr="<f4"), bytes(64)),
        raw_npy(text(order="True"), bytes(32)),
        raw_npy(text(), bytes(33)),
        raw_npy(text(), bytes(31)),
        raw_npy(text(), b""),
        raw_npy(text()[:-1] + b" " * 10_000 + b"\n", bytes(32)),
        raw_npy(text(), bytes(32), version=b"\x02\x00"),
        raw_npy(b"", bytes(32)),
        raw_npy(b"{'descr': __import__('os').getpid()}\n", bytes(32)),
        b"\x93NUMPY",
        b"",
        b"PK\x03\x04" + bytes(60),
    ],
)
def test_s4_an_npy_header_has_one_form_and_its_numbers_one_length(
    worker: Worker, tmp_path: Path, payload: bytes
) -> None:
    refused(worker, forge(tmp_path / "set", sample(npy=payload), PLAN), "t00000-00000.npy", "expected")


def sparse() -> bytes:
    """2 048 bytes that tarfile takes for a file of 3 GiB."""
    size = b"%011o\0" % (3 << 30)
    return header(b"t00000-00000.npy", 0, b"S", b"ustar  \0", at386=b"%011o\0" % 0, at398=b"%011o\0" % 0, at483=size)


def gnu_number(value: int) -> bytes:
    return b"\x80" + value.to_bytes(11) if value >= 0 else (256**12 + value).to_bytes(12)


def pax(records: bytes) -> bytes:
    return header(b"t00000-00000.npy", len(records), b"x") + padded(records)


def first_then(*rest: bytes) -> bytes:
    """A good first member, then what is to be refused."""
    return archive(member("t00000-00000.cls", b"0"), *rest)


TARS: dict[str, tuple[Callable[[], bytes], str]] = {
    "s5 sparse": (lambda: archive(sparse()), "member type 'S' not allowed"),
    "s6 gzip": (lambda: gzip.compress(bytes(64 << 20)) + bytes(512), "not USTAR"),
    "s6 gzip, whole blocks": (lambda: padded(gzip.compress(bytes(64 << 20))), "not USTAR"),
    "s7 pax of 16 MB": (lambda: archive(pax(b"16000000 x=" + b"y" * (16_000_000 - 12) + b"\n")), "member type 'x'"),
    "s7 pax size": (lambda: archive(pax(b"16 size=2000000\n"), member("t00000-00000.npy", b"1")), "member type 'x'"),
    "s7 global pax": (lambda: archive(header(b"g", 0, b"g")), "member type 'g'"),
    "s7 gnu long name": (lambda: archive(header(b"././@LongLink", 20, b"L") + padded(b"x" * 20)), "member type 'L'"),
    "s8 negative size": (lambda: first_then(header(b"t00000-00000.npy", gnu_number(-512))), "size field not allowed"),
    "s8 minus sign": (lambda: first_then(header(b"t00000-00000.npy", b"-0000000512\0")), "size field not allowed"),
    "s9 huge size": (lambda: archive(header(b"__meta__", gnu_number(2**50))), "member name not allowed"),
    "s9 huge base-256": (lambda: archive(header(b"a.npy", gnu_number(2**50))), "size field not allowed"),
    "s9 huge octal": (lambda: first_then(header(b"t00000-00000.npy", 8**11 - 1)), "the archive ends before"),
    "s9 spaces in size": (lambda: archive(header(b"a.npy", b"      12345\0")), "size field not allowed"),
    "s11 symlink": (lambda: archive(header(b"t00000-00000.npy", 0, b"2", at157=b"/etc/passwd")), "regular files only"),
    "s11 hard link": (
        lambda: archive(header(b"t00000-00000.npy", 0, b"1", at157=b"/etc/passwd")),
        "regular files only",
    ),
    "s11 fifo": (lambda: archive(header(b"t00000-00000.npy", 0, b"6")), "regular files only"),
    "s11 character device": (lambda: archive(header(b"t00000-00000.npy", 0, b"3")), "regular files only"),
    "s11 block device": (lambda: archive(header(b"t00000-00000.npy", 0, b"4")), "regular files only"),
    "s11 folder": (lambda: archive(header(b"t00000-00000.npy", 0, b"5")), "regular files only"),
    "s11 contiguous": (lambda: archive(header(b"t00000-00000.npy", 0, b"7")), "regular files only"),
    "s11 old regular": (lambda: archive(header(b"t00000-00000.npy", 0, b"\0")), "regular files only"),
    "link name": (lambda: archive(header(b"t00000-00000.npy", 0, at157=b"x")), "link name not allowed"),
    "prefix": (lambda: archive(header(b"t00000-00000.npy", 0, at345=b"a/b")), "name prefix not allowed"),
    "user": (lambda: archive(header(b"t00000-00000.npy", 0, at265=b"root")), "user and group not allowed"),
    "gnu magic": (lambda: archive(header(b"t00000-00000.npy", 0, magic=b"ustar  \0")), "not USTAR"),
    "v7": (lambda: archive(header(b"t00000-00000.npy", 0, magic=bytes(8))), "not USTAR"),
    "empty": (lambda: bytes(10240), "0 samples, the manifest says 1"),
    "text": (lambda: padded(b"hello" * 1000), "not USTAR"),
}


@pytest.mark.parametrize("name", TARS)
def test_s5_to_s11_only_plain_ustar_with_regular_files(worker: Worker, tmp_path: Path, name: str) -> None:
    make, reason = TARS[name]
    content = make()
    content += bytes(max(0, 10240 - len(content)))
    folder = forge(tmp_path / "set", content, PLAN)
    error = worker.read(folder)
    if error is not None and "cannot be: too many or too few" in error:  # stopped even before it was read
        error = worker.read(forge(tmp_path / "set", content, Plan(size=2048)))
    assert error is not None
    assert reason in error
    assert "train-00000.tar" in error
    assert "\n" not in error


@pytest.mark.parametrize(
    "name",
    [b"../../x.npy", b"/etc/x.npy", b"a/b.npy", b"a\\b.npy", b".npy", b"a..npy", b"a", b"a.b.c.npy", b"a b.npy",
     b"\xff.npy", b"a\n.npy", b"a\0b.npy", b"", b"a.npy ", b"a.NPY", b"\x1b[2J.npy"],
)  # fmt: skip
def test_s10_member_names_are_a_key_and_an_extension(worker: Worker, tmp_path: Path, name: bytes) -> None:
    refused(worker, forge(tmp_path / "set", archive(header(name, 0)), PLAN), "member name not allowed")


def test_s12_duplicate_members_are_refused_adjacent_or_not(worker: Worker, tmp_path: Path) -> None:
    made = {name: member(name, payload) for name, payload in parts(PLAN).items()}
    adjacent = archive(*made.values(), made["t00000-00000.npy"])
    refused(worker, forge(tmp_path / "a", adjacent, PLAN), "t00000-00000.npy: duplicate member")
    other = (member(name, payload) for name, payload in parts(PLAN, key="t00000-00001").items())
    apart = archive(*made.values(), *other, *made.values())
    refused(worker, forge(tmp_path / "b", apart, PLAN, samples=3), "t00000-00000: duplicate member")
    split = archive(*list(made.values())[:1], member("t00000-00001.cls", b"0"), *list(made.values())[1:])
    refused(worker, forge(tmp_path / "c", split, PLAN, samples=2), "missing")


@pytest.mark.parametrize("dropped", ["cls", "npy", "logits.npy"])
def test_s13_a_missing_member_is_named(worker: Worker, tmp_path: Path, dropped: str) -> None:
    kept = [member(name, payload) for name, payload in parts(PLAN).items() if not name.endswith(f"00.{dropped}")]
    refused(worker, forge(tmp_path / "set", archive(*kept), PLAN), "sample t00000-00000", f"missing .{dropped}")


def test_s13_the_number_of_samples_is_the_manifests(worker: Worker, tmp_path: Path) -> None:
    two = encode(draw(PLAN, 2, 0), "npy")
    refused(worker, forge(tmp_path / "a", two, PLAN, samples=1), "more than the 1 samples")
    refused(worker, forge(tmp_path / "b", two, PLAN, samples=3), "2 samples, the manifest says 3")


def test_s13_keys_are_numbered(worker: Worker, tmp_path: Path) -> None:
    other = archive(*(member(name, payload) for name, payload in parts(PLAN, key="t00001-00000").items()))
    refused(worker, forge(tmp_path / "set", other, PLAN), "t00001-00000", "expected t00000-00000")


@pytest.mark.parametrize(
    "label",
    ["99999", "10", "-1", "-0", "+1", " 7", "7 ", "7\n", "1_0", "1e5", "1.0", "0x1", "00", "07", "", "9" * 5000,
     "\u0663", "\uff17", "True", "nan", "7\0"],
)  # fmt: skip
def test_s14_a_label_is_a_plain_number_of_a_class(worker: Worker, tmp_path: Path, label: str) -> None:
    shard = sample(cls=label.encode())
    refused(worker, forge(tmp_path / "set", shard, PLAN), "t00000-00000.cls", "whole number in [0, 10)")


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.full(10, np.nan, np.float32), "not finite"),
        (np.array([0] * 9 + [np.inf], np.float32), "not finite"),
        (np.array([0] * 9 + [-np.inf], np.float32), "not finite"),
        (np.zeros(9, np.float32), "expected"),
        (np.zeros(11, np.float32), "expected"),
        (np.zeros((1, 10), np.float32), "expected"),
        (np.zeros(10, np.float64), "expected"),
        (np.zeros(10, np.int32), "expected"),
    ],
)
def test_s15_logits_are_finite_float32_of_the_right_width(
    worker: Worker, tmp_path: Path, array: np.ndarray, reason: str
) -> None:
    refused(worker, forge(tmp_path / "set", sample(logits=npy(array)), PLAN), "t00000-00000.logits.npy", reason)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1.001, -0.001, 60000.0])
def test_s15_stored_images_lie_between_0_and_1(worker: Worker, tmp_path: Path, value: float) -> None:
    array = np.full((1, 4, 4), 0.5, np.float16)
    array[0, 3, 3] = value
    refused(worker, forge(tmp_path / "set", sample(npy=npy(array)), PLAN), "t00000-00000.npy", "outside [0, 1]")


@pytest.mark.parametrize(
    ("target", "label", "reason"),
    [
        ([0.1] * 9 + [np.nan], 0, "not a distribution"),
        ([0.2] * 10, 0, "not a distribution"),
        ([-1.0, 2.0] + [0.0] * 8, 1, "not a distribution"),
        ([0.0] * 9 + [1.0], 0, "not the largest entry"),
    ],
)
def test_s15_targets_are_distributions_and_the_label_their_peak(
    worker: Worker, tmp_path: Path, target: list[float], label: int, reason: str
) -> None:
    plan = Plan(targets=True)
    members = parts(PLAN, cls=str(label).encode()) | {"t00000-00000.target.npy": npy(np.array(target, np.float32))}
    shard = archive(*(member(name, payload) for name, payload in members.items()))
    refused(worker, forge(tmp_path / "set", shard, plan), "t00000-00000.", reason)


def test_s17_shards_that_change_places_or_come_from_elsewhere_are_refused(worker: Worker, tmp_path: Path) -> None:
    plan = Plan(train=(2, 2), holdout=())
    write(tmp_path / "swapped", plan)
    one, two = tmp_path / "swapped/train-00000.tar", tmp_path / "swapped/train-00001.tar"
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)
    refused(worker, tmp_path / "swapped", "sha256 differs")
    refused(worker, forge(tmp_path / "renamed", second, PLAN, samples=2), "expected t00000-00000")
    write(tmp_path / "other", Plan(train=(2, 2), holdout=(), seed=1))
    one.write_bytes((tmp_path / "other/train-00000.tar").read_bytes())
    refused(worker, tmp_path / "swapped", "sha256 differs")


@pytest.mark.parametrize(
    "content",
    [b'{"a": NaN}', b'{"a": 1, "a": 1}', b"[" * 100_000, b'{"a": ' + b"9" * 1_000_000 + b"}", b"[" + b"[]," * 5_000_000,
     b'{"shards": [' + b"1," * 600_000 + b"1]}"],
    ids=["NaN", "duplicate key", "depth", "long number", "many lists", "many shards"],
)  # fmt: skip
def test_s18_a_hostile_manifest_costs_one_line(worker: Worker, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    error = worker.read(tmp_path)
    assert error is not None
    assert "manifest.json" in error
    assert "\n" not in error
    assert len(error) < 500 + len(str(tmp_path))


@pytest.mark.parametrize("kind", ["link", "fifo", "folder", "device link"])
def test_s18_a_shard_that_is_not_a_regular_file_is_refused(worker: Worker, tmp_path: Path, kind: str) -> None:
    folder = forge(tmp_path / "set", encode(draw(PLAN, 1, 0), "npy"), PLAN)
    shard = folder / "train-00000.tar"
    shard.rename(tmp_path / "real.tar")
    if kind == "link":
        shard.symlink_to(tmp_path / "real.tar")  # even to the right content: a link leads out of the folder
    elif kind == "device link":
        shard.symlink_to("/dev/zero")
    elif kind == "fifo":
        os.mkfifo(shard)
    else:
        shard.mkdir()
    refused(worker, folder, "regular file")


def test_s18_a_manifest_cannot_claim_more_than_its_shards_can_hold(worker: Worker, tmp_path: Path) -> None:
    shard = encode(draw(PLAN, 1, 0), "npy")
    for plan, samples in ((PLAN, 100_000), (Plan(size=8192, channels=64), 1), (Plan(classes=100_000), 99_999)):
        refused(worker, forge(tmp_path / "set", shard, plan, samples), "samples in")


def test_s18_a_sparse_file_of_2_gib_is_not_read(worker: Worker, tmp_path: Path) -> None:
    folder = forge(tmp_path / "set", encode(draw(PLAN, 1, 0), "npy"), PLAN)
    with (folder / "train-00000.tar").open("r+b") as file:
        file.truncate(2 << 30)
    refused(worker, folder, "2147483648 bytes, the manifest says 10240")


def png(width: int, height: int, colour: int = 2, bits: int = 8, data: bytes | None = None, end: bool = True) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    raw = zlib.compress(bytes(height * (1 + width * 3))) if data is None else data
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", raw) + (chunk(b"IEND", b"") if end else b"")


def saved(mode: str, name: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    Image.new(mode, (32, 32)).save(stream, name, **options)
    return stream.getvalue()


PNGS: dict[str, tuple[Callable[[], bytes], str]] = {
    "p1 169 Mpx": (lambda: png(13_000, 13_000, data=zlib.compress(bytes(1 << 20))), "169 Mpx"),
    "p1 400 Mpx": (lambda: png(20_000, 20_000, data=zlib.compress(bytes(1 << 20))), "400 Mpx"),
    "p1 33x32": (lambda: png(33, 32), "33x32"),
    "p1 inflates to more": (lambda: png(32, 32, data=zlib.compress(bytes(16 << 20))), "not 3104 bytes of pixels"),
    "p1 inflates to less": (lambda: png(32, 32, data=zlib.compress(bytes(3103))), "not 3104 bytes of pixels"),
    "p2 stream without end": (lambda: png(32, 32, data=zlib.compress(bytes(3104))[:-1]), "not 3104 bytes of pixels"),
    "p2 bytes after stream": (lambda: png(32, 32, data=zlib.compress(bytes(3104)) + b"x"), "not 3104 bytes of pixels"),
    "p2 not deflate": (lambda: png(32, 32, data=b"x" * 50), "damaged PNG"),
    "p2 unknown filter": (lambda: png(32, 32, data=zlib.compress(b"\x09" * 3104)), "damaged PNG"),
    "p2 truncated": (lambda: png(32, 32)[:-20], "truncated PNG"),
    "p2 no end": (lambda: png(32, 32, end=False), "PNG chunks IHDR IDAT, expected"),
    "p2 trailing": (lambda: png(32, 32) + b"x", "1 bytes after the end"),
    "p2 16 bit": (lambda: png(32, 32, bits=16), "16 bit"),
    "p2 16 bit grey": (lambda: saved("I;16"), "16 bit, colour type 0"),
    "p2 palette": (lambda: saved("P"), "colour type 3"),
    "p2 RGBA": (lambda: saved("RGBA"), "colour type 6"),
    "p2 grey": (lambda: saved("L"), "colour type 0"),
    "p2 1 bit": (lambda: saved("1"), "1 bit"),
    "p2 transparency": (lambda: saved("RGB", transparency=(0, 0, 0)), "tRNS"),
    "p2 animation": (lambda: saved("RGB", save_all=True, append_images=[Image.new("RGB", (32, 32), 9)]), "acTL"),
    "p2 text bomb": (lambda: png(32, 32).replace(b"IDAT", b"zTXt"), "checksum"),
    "p2 eps": (lambda: saved("RGB", "EPS"), "not a PNG"),
    "p2 psd": (lambda: b"8BPS\x00\x01" + bytes(200), "not a PNG"),
    "p2 wmf": (lambda: b"\xd7\xcd\xc6\x9a" + bytes(200), "not a PNG"),
    "p2 jpeg": (lambda: saved("RGB", "JPEG"), "not a PNG"),
    "p2 gif": (lambda: saved("RGB", "GIF"), "not a PNG"),
    "p2 empty": (lambda: b"", "not a PNG"),
    "p2 signature": (lambda: b"\x89PNG\r\n\x1a\n", "without a header"),
}


@pytest.mark.parametrize("name", PNGS)
def test_p1_p2_pictures_are_what_the_manifest_says_before_they_are_decoded(
    worker: Worker, tmp_path: Path, name: str
) -> None:
    make, reason = PNGS[name]
    logits = npy(np.zeros(10, np.float32))
    shard = archive(
        member("t00000-00000.cls", b"0"), member("t00000-00000.logits.npy", logits), member("t00000-00000.png", make())
    )
    error = worker.read(forge(tmp_path / "set", shard, PNG))
    if error is not None and "cannot be: too many or too few" in error:  # stopped even before it was read
        assert len(shard) > 30_000
        return
    refused(worker, tmp_path / "set", "t00000-00000.png", reason)


def test_d1_nothing_in_a_dataset_folder_is_imported_or_executed(worker: Worker, tmp_path: Path, canary: Path) -> None:
    folder = tmp_path / "set"
    write(folder, PLAN)
    code = f"import pathlib; pathlib.Path({str(canary)!r}).touch()\n"
    for name in (
        "sitecustomize.py",
        "usercustomize.py",
        "__init__.py",
        "__main__.py",
        "json.py",
        "torch.py",
        "conftest.py",
    ):
        (folder / name).write_text(code)
    (folder / "dvc.yaml").write_text(f"stages:\n  x:\n    cmd: touch {canary}\n")
    (folder / ".dvc").mkdir()
    (folder / ".dvc/config").write_text("[core]\n    analytics = true\n")
    (folder / "README.md").write_text("a card")
    (folder / "preview.png").write_bytes(b"not even a picture")
    assert worker.read(folder) is None
    assert not canary.exists()
    command = [sys.executable, "-P", "-m", "pipeline.shards", "verify", "."]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert not canary.exists()


def test_the_command_line_says_it_in_one_line_with_status_2(tmp_path: Path, canary: Path) -> None:
    shard = archive(member("t00000-00000.pyd", pickle.dumps(Pwn(canary))))
    folder = forge(tmp_path / "set", shard, PLAN)
    command = [sys.executable, "-m", "pipeline.shards", "verify", str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {folder}/train-00000.tar: t00000-00000.pyd: member type .pyd not allowed")
    assert done.stderr.count("\n") == 1
    assert not canary.exists()


def test_the_usual_reader_does_fall_for_the_first_attack(tmp_path: Path, canary: Path) -> None:
    # So that the canary is known to sing.
    import webdataset

    shard = archive(member("t00000-00000.pyd", pickle.dumps(Pwn(canary))))
    (tmp_path / "x.tar").write_bytes(shard)
    with tarfile.open(tmp_path / "x.tar") as tar:
        assert len(tar.getmembers()) == 1
    next(iter(webdataset.WebDataset(str(tmp_path / "x.tar"), shardshuffle=False).decode()))
    assert canary.exists()
