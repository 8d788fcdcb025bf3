"""NumPy's .npy format, version 1.0, C order, little endian: the header for a known dtype and shape, and nothing else.

Written by hand, so that the bytes stay the same whatever NumPy writes next.
"""

import struct
from functools import lru_cache

__all__ = ["MAGIC", "npy_header", "npy_text"]

MAGIC = b"\x93NUMPY\x01\x00"
_CODES = {"float16": "<f2", "float32": "<f4"}
_ALIGNMENT = 64
_GROWTH = 21  # digits that NumPy leaves room for in the first axis


@lru_cache(maxsize=32)
def npy_text(dtype: str, shape: tuple[int, ...]) -> bytes:
    """The header's dictionary, without padding."""
    return f"{{'descr': '{_CODES[dtype]}', 'fortran_order': False, 'shape': {shape!r}, }}".encode()


@lru_cache(maxsize=32)
def npy_header(dtype: str, shape: tuple[int, ...]) -> bytes:
    """Everything before the numbers: magic, version, length, dictionary, padding."""
    text = npy_text(dtype, shape) + b" " * (_GROWTH - len(str(shape[0])))
    length = len(MAGIC) + 2 + len(text) + 1
    text += b" " * (-length % _ALIGNMENT) + b"\n"
    return MAGIC + struct.pack("<H", len(text)) + text
