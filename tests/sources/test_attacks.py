"""Hostile and damaged checkpoint files. All of them are read by one process of little memory, as a user's would be."""

import io
import json
import pickle
import resource
import struct
import subprocess
import sys
import tarfile
import time
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

READ_ALL = r"""
import json, re, resource, sys
from pathlib import Path
from pipeline.core.errors import PipelineError
from pipeline.sources.checkpoint import read_weights
verdicts = {}
for path in sorted(Path(sys.argv[1]).glob("attack-*")):
    try:
        verdicts[path.stem] = f"accepted: {list(read_weights(path, None))}"
    except PipelineError as error:
        verdicts[path.stem] = str(error)
# Not ru_maxrss of itself: that is kept over exec, and so counts the memory of the process that started this one.
own = int(re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())[1])
peaks = [own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss]
sys.stdout.write(json.dumps([verdicts, peaks]))
"""

# Name of the attack -> what its one-line message must say.
PICKLED = {
    "t1-code": r"contains code or Python objects \(.*system\), refused",
    "t2-code-in-the-old-format": r"contains code or Python objects \(.*system\), refused",
    "t3-torchscript": "TorchScript archive, not weights",
    "t4-module": r"pickled module \(torch.nn.modules.container.Sequential\), not weights",
    "t5-four-gigabytes": "exceeds the memory budget",
    "t6-compressed": "compressed member .*data.pkl, refused",
    "t6-declares-more-than-there-is": r"declare \d+ bytes, but the file has \d+|damaged",
    "t7-two-pickles": "ambiguous archive: 2 members named data.pkl",
    "t7-same-name-twice": "ambiguous archive: a member name stands twice",
    "t7-parent-folder": r"ambiguous archive: member name 'x/../../evil'",
    "t8-overlapping-members": "damaged|ambiguous",
    "t8-zip64-elsewhere": "damaged|ambiguous",
    "t8-misnamed-members": "damaged|ambiguous",
    "expanded-view": "a: claims 4000000000 bytes of a storage of 4",
    "sparse": "s: not a plain tensor",
    "raw-pickle": "not a torch checkpoint",
    "tar": "not a torch checkpoint",
    "empty": "not a torch checkpoint",
    "cut": "damaged archive",
    "cut-old-format": "damaged checkpoint",
}
SAFETENSORS = {
    "t9-huge-header": r"its header claims \d+ of \d+ bytes",
    "t9-overlap": "damaged safetensors file",
    "t9-hole": "damaged safetensors file",
    "t9-shape-beyond-data": "damaged safetensors file",
    "t9-truncated": "damaged safetensors file",
    "t9-trailing": "damaged safetensors file",
    "t9-duplicate-key": "duplicate key 'a'",
    "t9-duplicate-field": "duplicate key 'dtype'",
    "t9-many-tensors": r"a header of \d+ bytes, expected at most",
    "t9-many-short-tensors": r"\d+ tensors, expected at most 20000",
    "t9-deep-json": "damaged safetensors header",
    "t9-long-number": "damaged safetensors header",
    "t9-list": "a list, expected an object",
    "t9-not-text": "damaged safetensors header",
    "t9-empty": "header claims 0 of 0 bytes",
    "t10-shape-wraps-to-nothing": "damaged safetensors file",
    "t10-shape-wraps-to-one": "damaged safetensors file",
    "t10-empty-but-far-away": "damaged safetensors file",
    "t10-backwards": "damaged safetensors file",
    "t10-negative": "damaged safetensors",
    "t10-unknown-dtype-far-away": "damaged safetensors",
    "t10-float-offsets": "damaged safetensors",
    "t10-header-filled-up-with-nul": "damaged safetensors header",
    "t10-length-wraps": r"its header claims \d+ of \d+ bytes",
}


class Evil:
    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        import os

        return os.system, (f"touch {self.canary}",)


def saved(content, **options):
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def zipped(members, compression=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return buffer.getvalue()


def members(content):
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return [(name, archive.read(name)) for name in archive.namelist()]


def with_pickle(content, data):
    return [(name, data if name.endswith("data.pkl") else value) for name, value in members(content)]


def safetensors(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(begin, end, shape=(1,)):
    return {"dtype": "F32", "shape": list(shape), "data_offsets": [begin, end]}


def repeated(value, count):
    return "{{{}}}".format(",".join(f'"{index}":{value}' for index in range(count))).encode()


def tarred():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("storages"))
    return buffer.getvalue()


def overstated(content):
    """The same archive, its central directory declaring the pickle to be 1 GiB."""
    at = content.index(b"PK\x01\x02")
    return content[: at + 20] + struct.pack("<II", 1 << 30, 1 << 30) + content[at + 28 :]


def overlapping(content):
    """The same archive, each member's entry in the directory pointing to the first one's place."""
    changed, at = bytearray(content), 0
    while (at := content.find(b"PK\x01\x02", at) + 1) > 0:
        changed[at + 41 : at + 45] = bytes(4)
    return bytes(changed)


def elsewhere(content):
    """The same archive with a ZIP64 record that names another place and number than the record at the end."""
    end = content.rindex(b"PK\x05\x06")
    far = struct.pack("<4sQHHLLQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, 1 << 33, 1 << 33, 1 << 40, 1 << 40)
    return content[:end] + far + struct.pack("<4sLQL", b"PK\x06\x07", 0, end, 1) + content[end:]


def misnamed(content):
    """The same archive, its members called otherwise where they stand than in the directory."""
    at = content.index(b"PK\x01\x02")
    return content[:at].replace(b"/data.pkl", b"/evil.pkl") + content[at:]


def pickled_attacks(canary):
    old = {"_use_new_zipfile_serialization": False}
    plain = saved({"a": torch.zeros(2)})
    module = nn.Sequential(nn.Linear(2, 2))
    script = io.BytesIO()
    torch.jit.save(torch.jit.trace(module, torch.zeros(1, 2)), script)
    four_gigabytes = b"\x80\x02c__builtin__\nbytearray\n\x8a\x05" + (4 << 30).to_bytes(5, "little") + b"\x85R."
    sparse = torch.sparse_coo_tensor(torch.zeros(1, 1, dtype=torch.int64), torch.ones(1), (2,), check_invariants=True)
    folder = members(plain)[0][0].split("/")[0]
    return {
        "t1-code": saved(Evil(canary)),
        "t2-code-in-the-old-format": saved(Evil(canary), **old),
        "t3-torchscript": script.getvalue(),
        "t4-module": saved(module),
        "t5-four-gigabytes": zipped(with_pickle(plain, four_gigabytes)),
        "t6-compressed": zipped(with_pickle(plain, b"\0" * (64 << 20)), zipfile.ZIP_DEFLATED),
        "t6-declares-more-than-there-is": overstated(plain),
        "t7-two-pickles": zipped([*members(plain), (f"{folder}/more/data.pkl", b".")]),
        "t7-same-name-twice": zipped([*members(plain), members(plain)[0]]),
        "t7-parent-folder": zipped([*members(plain), ("x/../../evil", b"")]),
        "t8-overlapping-members": overlapping(plain),
        "t8-zip64-elsewhere": elsewhere(plain),
        "t8-misnamed-members": misnamed(plain),
        "expanded-view": saved({"a": torch.zeros(1).expand(10**9)}),
        "sparse": saved({"s": sparse}),
        "raw-pickle": pickle.dumps(Evil(canary)),
        "tar": tarred(),
        "empty": b"",
        "cut": plain[:-30],
        "cut-old-format": saved({"a": torch.zeros(1000)}, **old)[:-30],
    }


def safetensors_attacks():
    empty = '{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    one = json.dumps(entry(0, 4))
    return {
        "t9-huge-header": struct.pack("<Q", 1 << 60) + b"{}",
        "t9-overlap": safetensors({"a": entry(0, 4), "b": entry(0, 4)}, bytes(4)),
        "t9-hole": safetensors({"a": entry(0, 4), "b": entry(8, 12)}, bytes(12)),
        "t9-shape-beyond-data": safetensors({"a": entry(0, 4, (10**12,))}, bytes(4)),
        "t9-truncated": safetensors({"a": entry(0, 8, (2,))}, bytes(7)),
        "t9-trailing": safetensors({"a": entry(0, 4)}, bytes(5)),
        "t9-duplicate-key": safetensors(f'{{"a": {one}, "a": {one}}}'.encode(), bytes(4)),
        "t9-duplicate-field": safetensors(
            b'{"a": {"dtype": "F32", "dtype": "I32", "shape": [1], "data_offsets": [0, 4]}}', bytes(4)
        ),
        "t9-many-tensors": safetensors(repeated(empty, 300_000)),
        "t9-many-short-tensors": safetensors(repeated("0", 100_000)),
        "t9-deep-json": safetensors(b'{"a":' + b"[" * 500_000),
        "t9-long-number": safetensors(b'{"a":' + b"9" * 1_000_000 + b"}"),
        "t9-list": safetensors(b"[]"),
        "t9-not-text": safetensors(b"\xff\xfe{}"),
        "t9-empty": b"",
        # Of parsers in C and C++ that were reported this year: products and sums that wrap, checks that are skipped.
        "t10-shape-wraps-to-nothing": safetensors({"a": entry(0, 0, (1 << 32, 1 << 32))}),
        "t10-shape-wraps-to-one": safetensors({"a": entry(0, 4, ((1 << 64) + 1,))}, bytes(4)),
        "t10-empty-but-far-away": safetensors({"a": entry(1 << 40, 1 << 40, (0,))}),
        "t10-backwards": safetensors({"a": entry(8, 4)}, bytes(8)),
        "t10-negative": safetensors({"a": entry(-4, 0)}, bytes(4)),
        "t10-unknown-dtype-far-away": safetensors({"a": entry(1 << 40, 4) | {"dtype": "F7"}}, bytes(4)),
        "t10-float-offsets": safetensors({"a": entry(0.0, 4.0)}, bytes(4)),
        "t10-header-filled-up-with-nul": safetensors(json.dumps({"a": entry(0, 4)}).encode() + b"\0" * 6, bytes(4)),
        "t10-length-wraps": struct.pack("<Q", (1 << 64) - 8) + b"{}",
    }


@pytest.fixture(scope="module")
def reading(tmp_path_factory):
    folder = tmp_path_factory.mktemp("attacks")
    with warnings.catch_warnings(action="ignore"):  # TorchScript is deprecated, and zipfile doubts duplicates
        pickled = pickled_attacks(folder / "canary")
    for name, content in pickled.items():
        (folder / f"attack-{name}.pt").write_bytes(content)
    for name, content in safetensors_attacks().items():
        (folder / f"attack-{name}.safetensors").write_bytes(content)
    done = subprocess.run(
        [sys.executable, "-c", READ_ALL, str(folder)],
        capture_output=True,
        check=False,
        cwd=Path(__file__).parents[2],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30)),
    )
    assert done.returncode == 0, done.stderr.decode()
    verdicts, peaks = json.loads(done.stdout)
    return folder, verdicts, peaks


@pytest.mark.parametrize(("name", "reason"), [*PICKLED.items(), *SAFETENSORS.items()])
def test_a_hostile_file_is_refused_in_one_line_that_names_it(reading, name, reason):
    import re

    _, verdicts, _ = reading
    message = verdicts[f"attack-{name}"]
    assert re.search(reason, message), message
    assert f"attack-{name}." in message
    assert "\n" not in message
    assert len(message) < 700


def test_no_attack_ran_code(reading):
    folder, verdicts, _ = reading
    assert len(verdicts) == len(PICKLED) + len(SAFETENSORS)
    assert not (folder / "canary").exists()


def test_no_attack_took_a_gigabyte(reading):
    _, _, peaks = reading
    assert max(peaks) < 1 << 20  # KiB


def test_the_attack_works_where_nothing_holds_it_back(tmp_path):
    """The canary is a real one: plain unpickling of the same file creates it."""
    canary = tmp_path / "canary"
    pickle.loads(pickle.dumps(Evil(canary)))
    assert canary.exists()


def test_a_reader_that_hangs_is_stopped(tmp_path, monkeypatch):
    from pipeline.core.errors import TeacherError
    from pipeline.sources import checkpoint

    path = tmp_path / "slow.pt"
    path.write_bytes(saved({"a": torch.zeros(2)}))
    script = tmp_path / "unpack.py"
    script.write_text("import time\ntime.sleep(60)\n")
    monkeypatch.setattr(checkpoint, "_SCRIPT", script)
    monkeypatch.setattr(checkpoint, "_SECONDS", 0.5)
    start = time.monotonic()
    with pytest.raises(TeacherError, match=r"slow.pt: not read within"):
        checkpoint.read_weights(path, None)
    assert time.monotonic() - start < 20


def test_a_reader_that_crashes_is_reported(tmp_path, monkeypatch):
    from pipeline.core.errors import TeacherError
    from pipeline.sources import checkpoint

    path = tmp_path / "crash.pt"
    path.write_bytes(b"PK\x03\x04")
    script = tmp_path / "unpack.py"
    script.write_text("import os\nos.kill(os.getpid(), 11)\n")
    monkeypatch.setattr(checkpoint, "_SCRIPT", script)
    with pytest.raises(TeacherError, match=r"crash.pt: the reader died on it \(signal 11\)"):
        checkpoint.read_weights(path, None)
