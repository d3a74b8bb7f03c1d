"""Compressed text is read to its true end or refused; the standard tools are the truth of what a whole file is."""

import bz2
import gzip
import io
import json
import lzma

import pytest
import zstandard

from mtllm_ds.errors import UserError
from mtllm_ds.text_files import json_object, lines_of

LINES = [f"line {i} of some text that repeats, {i * i}" for i in range(2000)]
CONTENT = "".join(f"{line}\n" for line in LINES).encode()
COMPRESS = {
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".bz2": bz2.compress,
    ".zst": zstandard.ZstdCompressor(write_checksum=True).compress,
}


def read(path) -> list[str]:
    return [line.decode() for _, line in lines_of(str(path))]


@pytest.fixture(params=COMPRESS)
def suffix(request):
    return request.param


def test_one_and_several_streams_are_read_whole(tmp_path, suffix):
    compress, path = COMPRESS[suffix], tmp_path / f"a{suffix}"
    path.write_bytes(compress(CONTENT))
    assert read(path) == LINES
    path.write_bytes(compress(CONTENT[:40_000]) + compress(b"") + compress(CONTENT[40_000:]))
    assert read(path) == LINES


def test_every_early_end_is_told(tmp_path, suffix):
    """But between streams, where nothing tells that more was meant to come."""
    compress, path = COMPRESS[suffix], tmp_path / f"a{suffix}"
    first, second = compress(CONTENT[:40_000]), compress(CONTENT[40_000:])
    whole = first + second
    for end in {
        1,
        5,
        20,
        len(first) - 1,
        len(first) + 1,
        len(first) + 5,
        len(whole) // 2,
        len(whole) - 9,
        len(whole) - 1,
    }:
        path.write_bytes(whole[:end])
        with pytest.raises(UserError, match=": damaged, ends early") as raised:
            read(path)
        assert len(str(raised.value).splitlines()) == 1
    path.write_bytes(first)
    assert len(read(path)) < len(LINES)


def test_a_damaged_bit_anywhere_in_a_later_stream_is_told(tmp_path, suffix):
    compress, path = COMPRESS[suffix], tmp_path / f"a{suffix}"
    first, second = compress(CONTENT[:40_000]), compress(CONTENT[40_000:])
    told = 0
    for place in [0, 1, 2, 3, *range(12, len(second), max(1, len(second) // 40))]:
        damaged = bytearray(second)
        damaged[place] ^= 4
        path.write_bytes(first + damaged)
        try:
            assert read(path) == LINES, f"byte {place}: other text, and nobody said so"  # such as gzip's unused flags
        except UserError:
            told += 1
    assert told >= 40


def test_what_follows_the_last_stream_is_told(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(COMPRESS[suffix](CONTENT) + b"something else")
    with pytest.raises(UserError, match=": damaged"):
        read(path)


def test_padding_of_xz_and_skippable_frames_of_zstd_are_no_damage(tmp_path):
    path = tmp_path / "a.xz"
    path.write_bytes(lzma.compress(CONTENT[:40_000]) + bytes(8) + lzma.compress(CONTENT[40_000:]) + bytes(4))
    assert read(path) == LINES
    path = tmp_path / "a.zst"
    skippable = b"\x50\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"notes"
    path.write_bytes(zstandard.compress(CONTENT[:40_000]) + skippable + zstandard.compress(CONTENT[40_000:]))
    assert read(path) == LINES


def test_long_windows_are_read(tmp_path):
    parameters = zstandard.ZstdCompressionParameters(window_log=28, enable_ldm=True)
    path = tmp_path / "a.zst"
    stream = io.BytesIO()
    with zstandard.ZstdCompressor(compression_params=parameters).stream_writer(stream, closefd=False) as writer:
        writer.write(CONTENT)
    path.write_bytes(stream.getvalue())
    assert read(path) == LINES


def test_a_byte_order_mark_and_blank_lines_and_places(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbffirst\r\n\n  \nlast")
    assert list(lines_of(str(path))) == [(f"{path}, line 1", b"first"), (f"{path}, line 4", b"last")]


def test_json_lines_are_objects():
    assert json_object("p", json.dumps({"a": "ü"}).encode()) == {"a": "ü"}
