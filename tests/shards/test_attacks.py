"""What hostile datasets do to a reader: nothing. Each case has a manifest that fits it, as its author would make."""

import gzip
import hashlib
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
from PIL import Image

from tests.shards.support import (
    Data,
    archive,
    draw_samples,
    encode_samples,
    forge,
    header,
    member,
    numpy_file,
    padded,
    parts,
    resealed,
    write_dataset,
)
from tests.support import ROOT

PLAN = Data()
PNG = Data(encoding="png", channels=3, size=32)
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


def forge_any(folder: Path, content: bytes) -> Path:
    """`forge`, also with a file that no manifest can name."""
    forge(folder, content or b"x", PLAN)
    manifest = json.loads((folder / "manifest.json").read_bytes())
    manifest["shards"]["train"][0]["sha256"][0] = hashlib.sha256(content).hexdigest()
    (folder / "manifest.json").write_bytes(resealed(manifest))
    (folder / "train-00000.tar").write_bytes(content)
    return folder


def test_the_hand_made_sample_is_good(worker: Worker, tmp_path: Path) -> None:
    assert worker.read(forge(tmp_path / "set", sample(), PLAN)) is None


@pytest.mark.parametrize("extension", ["pyd", "pkl", "pickle", "pth", "json", "npz", "png", "cls2", "npy.gz"])
def test_s1_members_of_other_types_are_refused_and_never_unpickled(
    worker: Worker, tmp_path: Path, canary: Path, extension: str
) -> None:
    shard = archive(member(f"t00000-00000.{extension}", pickle.dumps(Pwn(canary))))
    refused(worker, forge(tmp_path / "set", shard, PLAN), f"found b't00000-00000.{extension}'")
    assert not canary.exists()


def test_s2_no_switch_of_webdataset_matters(
    worker: Worker, tmp_path: Path, canary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WDS_SECURE", "1")
    added = member("t00000-00000.x.pyd", pickle.dumps(Pwn(canary)))
    shard = archive(*(member(name, payload) for name, payload in parts(PLAN).items()), added)
    refused(worker, forge(tmp_path / "set", shard, PLAN), "after the last of 1 samples")
    assert not canary.exists()


def test_s3_an_array_of_objects_is_refused(worker: Worker, tmp_path: Path, canary: Path) -> None:
    stream = io.BytesIO()
    np.save(stream, np.array([Pwn(canary)], dtype=object), allow_pickle=True)
    shard = sample(npy=stream.getvalue())
    refused(worker, forge(tmp_path / "set", shard, PLAN), "t00000-00000.npy", "expected")
    assert not canary.exists()


def raw_numpy_file(header: bytes, payload: bytes, version: bytes = b"\x01\x00") -> bytes:
    """An npy file with any header."""
    return b"\x93NUMPY" + version + struct.pack("<H", len(header)) + header + payload


def text(descr: str = "<f2", order: str = "False", shape: str = "(1, 4, 4)") -> bytes:
    return f"{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}\n".encode()


@pytest.mark.parametrize(
    "payload",
    [
        raw_numpy_file(text(shape="(1000000000000,)"), b""),
        raw_numpy_file(text(shape="(1, 4, 4, 1)"), bytes(32)),
        raw_numpy_file(text(shape="(16,)"), bytes(32)),
        raw_numpy_file(text(descr="|V0"), b""),
        raw_numpy_file(text(descr=">f2"), bytes(32)),
        raw_numpy_file(text(descr="<f4"), bytes(64)),
        raw_numpy_file(text(order="True"), bytes(32)),
        raw_numpy_file(text(), bytes(33)),
        raw_numpy_file(text(), bytes(31)),
        raw_numpy_file(text(), b""),
        raw_numpy_file(text()[:-1] + b" " * 1000 + b"\n", bytes(32)),
        raw_numpy_file(text(), bytes(32), version=b"\x02\x00"),
        raw_numpy_file(b"", bytes(32)),
        raw_numpy_file(b"{'descr': __import__('os').getpid()}\n", bytes(32)),
        b"\x93NUMPY",
        b"",
        b"PK\x03\x04" + bytes(60),
    ],
)
def test_s4_an_npy_header_has_one_form_and_its_numbers_one_length(
    worker: Worker, tmp_path: Path, payload: bytes
) -> None:
    refused(worker, forge(tmp_path / "set", sample(npy=payload), PLAN), "t00000-00000.npy", "expected")


FIRST = b"t00000-00000.cls"


def sparse() -> bytes:
    """1 024 bytes that tarfile takes for a file of 3 GiB."""
    size = b"%011o\0" % (3 << 30)
    return header(FIRST, 0, b"S", b"ustar  \0", at386=b"%011o\0" % 0, at398=b"%011o\0" % 0, at483=size)


def gnu_number(value: int) -> bytes:
    return b"\x80" + value.to_bytes(11) if value >= 0 else (256**12 + value).to_bytes(12)


def first(size: int | bytes = 0, kind: bytes = b"0", magic: bytes = b"ustar\x0000", **fields: bytes) -> bytes:
    """An archive that begins with a header of the right name that is wrong otherwise."""
    return archive(header(FIRST, size, kind, magic, **fields))


TARS: dict[str, tuple[Callable[[], bytes], str]] = {
    "s5 sparse": (lambda: archive(sparse()), "tar type b'S', expected b'0'"),
    "s6 gzip": (lambda: gzip.compress(bytes(1 << 20)), "not USTAR"),
    "s7 pax size": (lambda: archive(header(FIRST, 16, b"x") + padded(b"16 size=2000000\n")), "tar size"),
    "s7 pax": (lambda: first(kind=b"x"), "tar type b'x'"),
    "s7 global pax": (lambda: archive(header(b"g", 0, b"g")), "found b'g'"),
    "s7 gnu long name": (lambda: archive(header(b"././@LongLink", 20, b"L") + padded(b"x" * 20)), "@LongLink"),
    "s8 negative size": (lambda: first(gnu_number(-512)), "tar size"),
    "s8 minus sign": (lambda: first(b"-0000000512\0"), "tar size"),
    "s9 huge size": (lambda: archive(header(b"__meta__", gnu_number(2**50))), "found b'__meta__'"),
    "s9 huge base-256": (lambda: first(gnu_number(2**50)), "tar size"),
    "s9 huge octal": (lambda: first(8**11 - 1), "tar size"),
    "s9 spaces in size": (lambda: first(b"      12345\0"), "tar size"),
    "s11 symlink": (lambda: first(kind=b"2", at157=b"/etc/passwd"), "tar type b'2'"),
    "s11 hard link": (lambda: first(kind=b"1", at157=b"/etc/passwd"), "tar type b'1'"),
    "s11 fifo": (lambda: first(kind=b"6"), "tar type"),
    "s11 character device": (lambda: first(kind=b"3"), "tar type"),
    "s11 block device": (lambda: first(kind=b"4"), "tar type"),
    "s11 folder": (lambda: first(kind=b"5"), "tar type"),
    "s11 contiguous": (lambda: first(kind=b"7"), "tar type"),
    "s11 old regular": (lambda: first(kind=b"\0"), "tar type"),
    "link name": (lambda: first(at157=b"x"), "tar link name"),
    "prefix": (lambda: first(at345=b"a/b"), "tar name prefix"),
    "user": (lambda: first(at265=b"root"), "tar user and group"),
    "gnu magic": (lambda: first(magic=b"ustar  \0"), "tar magic"),
    "v7": (lambda: first(magic=bytes(8)), "not USTAR"),
    "empty": (lambda: bytes(10240), "missing, the archive ends here"),
    "text": (lambda: b"hello" * 1000, "not USTAR"),
}


@pytest.mark.parametrize("name", TARS)
def test_s5_to_s11_only_plain_ustar_with_regular_files(worker: Worker, tmp_path: Path, name: str) -> None:
    make, reason = TARS[name]
    content = make()
    content += bytes(10240 - len(content))
    refused(worker, forge(tmp_path / "set", content, PLAN), FIRST.decode(), reason)


@pytest.mark.parametrize("content", [gzip.compress(bytes(64 << 20)), b"x" * 16_000_000, b"", bytes(512)], ids=len)
def test_s6_s7_a_file_of_another_length_is_not_even_read(worker: Worker, tmp_path: Path, content: bytes) -> None:
    refused(worker, forge_any(tmp_path / "set", content), f": {len(content)} bytes, the manifest says 10240")


@pytest.mark.parametrize(
    "name",
    [b"../../x.npy", b"/etc/x.npy", b"a/b.npy", b"a\\b.npy", b".npy", b"a..npy", b"a", b"a.b.c.npy", b"a b.npy",
     b"\xff.npy", b"a\n.npy", b"a\0b.npy", b"", b"a.npy ", b"a.NPY", b"\x1b[2J.npy"],
)  # fmt: skip
def test_s10_member_names_are_a_key_and_an_extension(worker: Worker, tmp_path: Path, name: bytes) -> None:
    refused(worker, forge(tmp_path / "set", archive(header(name, 0)), PLAN), f"found {name.rstrip(bytes(1))!r}")


def test_s12_duplicate_members_are_refused_adjacent_or_not(worker: Worker, tmp_path: Path) -> None:
    made = {name: member(name, payload) for name, payload in parts(PLAN).items()}
    adjacent = archive(*made.values(), made["t00000-00000.npy"])
    refused(worker, forge(tmp_path / "a", adjacent, PLAN), "after the last of 1 samples")
    other = (member(name, payload) for name, payload in parts(PLAN, key="t00000-00001").items())
    apart = archive(*made.values(), *other, *made.values())
    refused(
        worker,
        forge(tmp_path / "b", apart, PLAN, samples=3),
        "t00000-00002.cls: expected here, found b't00000-00000.cls'",
    )
    split = archive(*list(made.values())[:1], member("t00000-00001.cls", b"0"), *list(made.values())[1:])
    refused(worker, forge(tmp_path / "c", split, PLAN, samples=2), "expected here")


@pytest.mark.parametrize("dropped", ["cls", "npy", "logits.npy"])
def test_s13_a_missing_member_is_named(worker: Worker, tmp_path: Path, dropped: str) -> None:
    kept = [member(name, payload) for name, payload in parts(PLAN).items() if not name.endswith(f"00.{dropped}")]
    refused(worker, forge(tmp_path / "set", archive(*kept), PLAN), f"t00000-00000.{dropped}: ")


def test_s13_the_number_of_samples_is_the_manifests(worker: Worker, tmp_path: Path) -> None:
    two = encode_samples(draw_samples(PLAN, 2, 0), "npy")
    refused(worker, forge(tmp_path / "a", two, PLAN, samples=1), "after the last of 1 samples")
    refused(worker, forge(tmp_path / "b", two, PLAN, samples=3), "t00000-00002.cls: missing")


def test_s13_keys_are_numbered(worker: Worker, tmp_path: Path) -> None:
    other = archive(*(member(name, payload) for name, payload in parts(PLAN, key="t00001-00000").items()))
    refused(worker, forge(tmp_path / "set", other, PLAN), "t00000-00000.cls: expected here, found b't00001-00000.cls'")


@pytest.mark.parametrize(
    "label",
    ["99999", "10", "-1", "-0", "+1", " 7", "7 ", "7\n", "1_0", "1e5", "1.0", "0x1", "00", "07", "", "9" * 5000,
     "\u0663", "\uff17", "True", "nan", "7\0"],
)  # fmt: skip
def test_s14_a_label_is_a_plain_number_of_a_class(worker: Worker, tmp_path: Path, label: str) -> None:
    shard = sample(cls=label.encode())
    refused(worker, forge(tmp_path / "set", shard, PLAN), "t00000-00000.cls")


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
    refused(worker, forge(tmp_path / "set", sample(logits=numpy_file(array)), PLAN), "t00000-00000.logits.npy", reason)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1.001, -0.001, 60000.0])
def test_s15_stored_images_lie_between_0_and_1(worker: Worker, tmp_path: Path, value: float) -> None:
    array = np.full((1, 4, 4), 0.5, np.float16)
    array[0, 3, 3] = value
    refused(worker, forge(tmp_path / "set", sample(npy=numpy_file(array)), PLAN), "t00000-00000.npy", "outside [0, 1]")


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
    plan = Data(targets=True)
    members = parts(PLAN, cls=str(label).encode()) | {
        "t00000-00000.target.npy": numpy_file(np.array(target, np.float32))
    }
    shard = archive(*(member(name, payload) for name, payload in members.items()))
    refused(worker, forge(tmp_path / "set", shard, plan), "t00000-00000.", reason)


def test_s17_shards_that_change_places_or_come_from_elsewhere_are_refused(worker: Worker, tmp_path: Path) -> None:
    plan = Data(train=(2, 2), holdout=())
    write_dataset(tmp_path / "swapped", plan)
    one, two = tmp_path / "swapped/train-00000.tar", tmp_path / "swapped/train-00001.tar"
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)
    refused(worker, tmp_path / "swapped", "sha256 differs")
    refused(worker, forge(tmp_path / "renamed", second, PLAN, samples=2), "expected here, found b't00001-00000.cls'")
    write_dataset(tmp_path / "other", Data(train=(2, 2), holdout=(), seed=1))
    one.write_bytes((tmp_path / "other/train-00000.tar").read_bytes())
    refused(worker, tmp_path / "swapped", "sha256 differs")


@pytest.mark.parametrize(
    "content",
    [b'{"a": NaN}', b'{"a": 1, "a": 1}', b"[" * 100_000, b'{"a": ' + b"9" * 1_000_000 + b"}", b"[" + b"[]," * 5_000_000,
     b'{"shards": [' + b"1," * 1_300_000 + b"1]}"],
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
    folder = forge(tmp_path / "set", encode_samples(draw_samples(PLAN, 1, 0), "npy"), PLAN)
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
    shard = encode_samples(draw_samples(PLAN, 1, 0), "npy")
    for plan, samples in ((PLAN, 100_000), (Data("png", 3, 8192), 10), (Data(classes=100_000), 5_000)):
        refused(worker, forge(tmp_path / "set", shard, plan, samples), ": 10240 bytes, the manifest says")


def test_s18_a_sparse_file_of_2_gib_is_not_read(worker: Worker, tmp_path: Path) -> None:
    folder = forge(tmp_path / "set", encode_samples(draw_samples(PLAN, 1, 0), "npy"), PLAN)
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


PNGS: dict[str, Callable[[], bytes]] = {
    "p1 169 Mpx": lambda: png(13_000, 13_000, data=zlib.compress(bytes(1 << 20))),
    "p1 400 Mpx": lambda: png(20_000, 20_000, data=zlib.compress(bytes(1 << 20))),
    "p1 33x32": lambda: png(33, 32),
    "p1 inflates to more": lambda: png(32, 32, data=zlib.compress(bytes(16 << 20))),
    "p1 inflates to less": lambda: png(32, 32, data=zlib.compress(bytes(3103))),
    "p2 stream without end": lambda: png(32, 32, data=zlib.compress(bytes(3104))[:-1]),
    "p2 bytes after stream": lambda: png(32, 32, data=zlib.compress(bytes(3104)) + b"x"),
    "p2 not deflate": lambda: png(32, 32, data=b"x" * 50),
    "p2 unknown filter": lambda: png(32, 32, data=zlib.compress(b"\x09" * 3104)),
    "p2 truncated": lambda: png(32, 32)[:-20],
    "p2 no end": lambda: png(32, 32, end=False),
    "p2 trailing": lambda: png(32, 32) + b"x",
    "p2 16 bit": lambda: png(32, 32, bits=16),
    "p2 16 bit grey": lambda: saved("I;16"),
    "p2 palette": lambda: saved("P"),
    "p2 RGBA": lambda: saved("RGBA"),
    "p2 grey": lambda: saved("L"),
    "p2 1 bit": lambda: saved("1"),
    "p2 transparency": lambda: saved("RGB", transparency=(0, 0, 0)),
    "p2 animation": lambda: saved("RGB", save_all=True, append_images=[Image.new("RGB", (32, 32), 9)]),
    "p2 text bomb": lambda: png(32, 32).replace(b"IDAT", b"zTXt"),
    "p2 eps": lambda: saved("RGB", "EPS"),
    "p2 psd": lambda: b"8BPS\x00\x01" + bytes(200),
    "p2 wmf": lambda: b"\xd7\xcd\xc6\x9a" + bytes(200),
    "p2 jpeg": lambda: saved("RGB", "JPEG"),
    "p2 gif": lambda: saved("RGB", "GIF"),
    "p2 empty": lambda: b"",
    "p2 signature": lambda: b"\x89PNG\r\n\x1a\n",
}


@pytest.mark.parametrize("name", PNGS)
def test_p1_p2_pictures_have_one_form(worker: Worker, tmp_path: Path, name: str) -> None:
    logits = numpy_file(np.zeros(10, np.float32))
    named = {"cls": b"0", "logits.npy": logits, "png": PNGS[name]()}
    shard = archive(*(member(f"t00000-00000.{extension}", payload) for extension, payload in named.items()))
    error = refused(worker, forge(tmp_path / "set", shard, PNG))
    assert "t00000-00000.png: " in error or (len(shard) > 10240 and "the manifest says 10240" in error)


def test_d1_nothing_in_a_dataset_folder_is_imported_or_executed(worker: Worker, tmp_path: Path, canary: Path) -> None:
    folder = tmp_path / "set"
    write_dataset(folder, PLAN)
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
    assert done.stderr.startswith(f"error: {folder}/train-00000.tar: t00000-00000.cls: expected here, found ")
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
