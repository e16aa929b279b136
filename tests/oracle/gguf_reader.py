"""A GGUF v2/v3 file read with numpy alone, and its tensors as float32.

Written from the format's description, apart from the C++ reader in engine/weights and from every other library, so
that agreement between them means something. It trusts its input: hostile files are the C++ reader's business.
"""

import mmap
import struct

import numpy as np

_SCALARS = {
    0: "<u1",
    1: "<i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    7: "<u1",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}
_STRING, _ARRAY = 8, 9

# ggml type id -> (name, elements a block, bytes a block)
TYPES = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    30: ("BF16", 1, 2),
}


def _half(blocks, at):
    """f16 at byte `at` of every block, as float32 [blocks, 1]."""
    return np.ascontiguousarray(blocks[:, at : at + 2]).view("<f2").astype(np.float32)


def _nibbles(qs):
    """[n, 16] bytes -> [n, 32]: the low nibbles are the first half of the block, the high ones the second."""
    return np.concatenate([qs & 15, qs >> 4], axis=1)


def _fifth_bits(qh):
    """[n, 4] bytes (a little-endian u32) -> [n, 32]: bit j belongs to element j, worth 16."""
    return np.unpackbits(np.ascontiguousarray(qh), axis=1, bitorder="little") * np.uint8(16)


def _q4_0(b):
    return _half(b, 0) * (_nibbles(b[:, 2:]).astype(np.float32) - 8)


def _q4_1(b):
    return _half(b, 0) * _nibbles(b[:, 4:]).astype(np.float32) + _half(b, 2)


def _q5_0(b):
    return _half(b, 0) * ((_nibbles(b[:, 6:]) + _fifth_bits(b[:, 2:6])).astype(np.float32) - 16)


def _q5_1(b):
    return _half(b, 0) * (_nibbles(b[:, 8:]) + _fifth_bits(b[:, 4:8])).astype(np.float32) + _half(
        b, 2
    )


def _q8_0(b):
    return _half(b, 0) * np.ascontiguousarray(b[:, 2:]).view(np.int8).astype(np.float32)


def _k_scales(s):
    """Q4_K / Q5_K: 12 bytes hold eight 6-bit scales and eight 6-bit minimums."""
    low, mid, high = s[:, 0:4], s[:, 4:8], s[:, 8:12]
    scale = np.concatenate([low & 63, (high & 15) | ((low >> 6) << 4)], axis=1)
    minimum = np.concatenate([mid & 63, (high >> 4) | ((mid >> 6) << 4)], axis=1)
    return scale.astype(np.float32), minimum.astype(np.float32)


def _k_affine(b, codes):
    """d * scale * code - dmin * minimum, over eight sub-blocks of 32."""
    scale, minimum = _k_scales(b[:, 4:16])
    step, offset = _half(b, 0) * scale, _half(b, 2) * minimum
    return (step[:, :, None] * codes.astype(np.float32) - offset[:, :, None]).reshape(len(b), 256)


def _q4_k(b):
    qs = b[:, 16:].reshape(
        -1, 4, 1, 32
    )  # 32 bytes a pair of sub-blocks: low nibbles first, then high
    return _k_affine(b, np.concatenate([qs & 15, qs >> 4], axis=2).reshape(-1, 8, 32))


def _q5_k(b):
    qs = b[:, 48:].reshape(-1, 4, 1, 32)
    codes = np.concatenate([qs & 15, qs >> 4], axis=2).reshape(-1, 8, 32)
    fifth = (
        b[:, None, 16:48] >> np.arange(8, dtype=np.uint8)[None, :, None]
    ) & 1  # sub-block s: bit s of qh
    return _k_affine(b, codes + fifth * 16)


def _q6_k(b):
    low = b[:, :128].reshape(-1, 2, 2, 32)  # [half, byte run, l]
    high = b[:, 128:192].reshape(-1, 2, 1, 32)
    low4 = np.concatenate([low & 15, low >> 4], axis=2)  # the four quarters of a half
    high2 = (high >> np.array([0, 2, 4, 6], np.uint8)[None, None, :, None]) & 3
    codes = (low4 | (high2 << 4)).astype(np.float32) - 32
    scale = np.ascontiguousarray(b[:, 192:208]).view(np.int8).astype(np.float32)
    return (codes.reshape(-1, 16, 16) * (_half(b, 208) * scale)[:, :, None]).reshape(len(b), 256)


_BLOCKS = {2: _q4_0, 3: _q4_1, 6: _q5_0, 7: _q5_1, 8: _q8_0, 12: _q4_k, 13: _q5_k, 14: _q6_k}


def dequantize(raw, type_id):
    """The values of `raw` (uint8, whole blocks) as a flat float32 array."""
    if type_id == 0:
        return raw.view("<f4").astype(np.float32)
    if type_id == 1:
        return raw.view("<f2").astype(np.float32)
    if type_id == 30:
        return (raw.view("<u2").astype(np.uint32) << 16).view(np.float32)
    return _BLOCKS[type_id](raw.reshape(-1, TYPES[type_id][2])).reshape(-1)


class Gguf:
    """meta: key -> value (strings as str, arrays as numpy or list of bytes); tensors: name -> (shape, type id, offset).

    Shapes are row-major, [out, in]: the reverse of the file's dims.
    """

    def __init__(self, path):
        with open(path, "rb") as f:
            self._map = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
        self._at = 0
        magic, version, num_tensors, num_keys = struct.unpack("<4sIQQ", self._take(24))
        if magic != b"GGUF" or version not in (2, 3):
            raise ValueError(f"{path}: magic {magic!r} version {version}, this reads GGUF 2 and 3")
        self.meta = {}
        for _ in range(num_keys):
            key = self._string().decode()
            self.meta[key] = self._value(self._u32())
        self.tensors = {}
        for _ in range(num_tensors):
            name = self._string().decode()
            dims = [self._u64() for _ in range(self._u32())]
            self.tensors[name] = (tuple(reversed(dims)), self._u32(), self._u64())
        alignment = int(self.meta.get("general.alignment", 32))
        self._data = (self._at + alignment - 1) // alignment * alignment

    def tensor(self, name):
        """float32, in the row-major shape."""
        shape, type_id, offset = self.tensors[name]
        _, elements, size = TYPES[type_id]
        raw = np.frombuffer(
            self._map, np.uint8, int(np.prod(shape)) // elements * size, self._data + offset
        )
        return dequantize(raw, type_id).reshape(shape)

    def _take(self, n):
        self._at += n
        return self._map[self._at - n : self._at]

    def _u32(self):
        return struct.unpack("<I", self._take(4))[0]

    def _u64(self):
        return struct.unpack("<Q", self._take(8))[0]

    def _string(self):
        return self._take(self._u64())

    def _value(self, kind):
        if kind == _STRING:
            return self._string().decode("utf-8", "replace")
        if kind == _ARRAY:
            element, count = self._u32(), self._u64()
            if element == _STRING:
                return [self._string() for _ in range(count)]
            dtype = np.dtype(_SCALARS[element])
            return np.frombuffer(self._take(count * dtype.itemsize), dtype)
        dtype = np.dtype(_SCALARS[kind])
        value = np.frombuffer(self._take(dtype.itemsize), dtype)[0]
        return bool(value) if kind == 7 else value.item()
