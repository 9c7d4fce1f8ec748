"""The loops of `Interner`: an open-addressing hash table over Arrow's buffers, compiled by numba, free of the GIL.

A slot is two words: the hash, and the code + 1 with the kind of the value in the top bits (0: the slot is free). Values
of up to 8 bytes, integers among them, are hashed by a bijection, so that equal hashes of one kind are equal values;
longer ones are compared with the bytes that the table keeps. Linear probing, at most half full.
"""

# Shapes: slots uint64 [2 * capacity, a power of 2]; arena uint8 [bytes]; ends int64 [values + 1].

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types, uint64
from numba.extending import intrinsic

SHORT, WORD, LONG = 1, 2, 3
"""Kinds of values: under 8 bytes, exactly 8 bytes, longer."""
_KIND_SHIFT = 62
_CODE = (1 << _KIND_SHIFT) - 1
_BLOCK = 1024
_FIRST, _SECOND, _THIRD = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_BYTE = 8


def _load_word(typing_context, array, index):
    """The 8 bytes of a uint8 array that begin at `index`, whatever the alignment."""

    def load(context, builder, signature, arguments):
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        place = builder.gep(data, [arguments[1]])
        return builder.load(builder.bitcast(place, ir.IntType(64).as_pointer()), align=1)

    return types.uint64(array, types.int64), load


_word: Any = intrinsic(_load_word)


@njit(nogil=True, cache=True)
def _mixed(word):
    """A bijection of 64-bit words (the finalizer of splitmix64)."""
    word = (word ^ (word >> uint64(30))) * uint64(_SECOND)
    word = (word ^ (word >> uint64(27))) * uint64(_THIRD)
    return word ^ (word >> uint64(31))


@njit(nogil=True, cache=True)
def _tail(data, begin, length):
    """Up to 8 bytes as a word, without reading behind the end of the array."""
    if begin + _BYTE <= len(data):
        word = _word(data, begin)
        return word if length >= _BYTE else word & ((uint64(1) << uint64(length * _BYTE)) - uint64(1))
    word = uint64(0)
    for place in range(length):
        word |= uint64(data[begin + place]) << uint64(place * _BYTE)
    return word


@njit(nogil=True, cache=True)
def _hash(data, begin, length):
    """Of one kind, values of up to 8 bytes have different hashes."""
    if length < _BYTE:
        return _mixed(_tail(data, begin, length) | (uint64(length) << uint64(56)))
    if length == _BYTE:
        return _mixed(_tail(data, begin, length))
    word = uint64(length)
    end = begin + length
    while begin + _BYTE <= end:
        word = (word ^ _word(data, begin)) * uint64(_FIRST)
        word ^= word >> uint64(32)
        begin += _BYTE
    if begin < end:
        word = (word ^ _tail(data, begin, end - begin)) * uint64(_FIRST)
        word ^= word >> uint64(32)
    return _mixed(word)


@njit(nogil=True, cache=True)
def _equal(data, begin, arena, start, length):
    done = 0
    while done + _BYTE <= length:
        if _word(data, begin + done) != _word(arena, start + done):
            return False
        done += _BYTE
    while done < length:
        if data[begin + done] != arena[start + done]:
            return False
        done += 1
    return True


@njit(nogil=True, cache=True)
def _place(slots, hashed, kind, data, begin, length, arena, ends):
    """The slot that holds the value, or the free one where it belongs."""
    last = len(slots) // 2 - 1
    place = np.int64(hashed & uint64(last))
    while True:
        meta = slots[2 * place + 1]
        if meta == uint64(0):
            return place
        if slots[2 * place] == hashed and (meta >> uint64(_KIND_SHIFT)) == uint64(kind):
            if kind != LONG:
                return place
            code = np.int64(meta & uint64(_CODE)) - 1
            start = ends[code]
            if ends[code + 1] - start == length and _equal(data, begin, arena, start, length):
                return place
        place = (place + 1) & last


@njit(nogil=True, cache=True)
def is_valid(validity, position):
    """Whether Arrow's bitmap has the bit set; an empty bitmap: everything is valid."""
    return len(validity) == 0 or (validity[position >> 3] >> np.uint8(position & 7)) & np.uint8(1) != 0


@njit(nogil=True, cache=True)
def find_strings(slots, arena, ends, data, offsets, validity, first_bit, codes):
    """Codes of strings [len(codes)]: -1 where the value is null or unknown."""
    hashes = np.empty(_BLOCK, np.uint64)
    for block in range(0, len(codes), _BLOCK):
        size = min(_BLOCK, len(codes) - block)
        for row in range(size):
            begin = np.int64(offsets[block + row])
            hashes[row] = _hash(data, begin, np.int64(offsets[block + row + 1]) - begin)
        for row in range(size):
            begin = np.int64(offsets[block + row])
            length = np.int64(offsets[block + row + 1]) - begin
            kind = SHORT if length < _BYTE else WORD if length == _BYTE else LONG
            place = _place(slots, hashes[row], kind, data, begin, length, arena, ends)
            code = np.int64(slots[2 * place + 1] & uint64(_CODE)) - 1
            codes[block + row] = code if is_valid(validity, first_bit + block + row) else -1


@njit(nogil=True, cache=True)
def add_strings(slots, arena, ends, count, data, offsets, validity, first_bit, codes):
    """Codes of strings [len(codes)], new ones inserted; -1 for null. There must be room. Returns the new count."""
    for row in range(len(codes)):
        if not is_valid(validity, first_bit + row):
            codes[row] = -1
            continue
        begin = np.int64(offsets[row])
        length = np.int64(offsets[row + 1]) - begin
        kind = SHORT if length < _BYTE else WORD if length == _BYTE else LONG
        hashed = _hash(data, begin, length)
        place = _place(slots, hashed, kind, data, begin, length, arena, ends)
        meta = slots[2 * place + 1]
        if meta == uint64(0):
            start = ends[count]
            for byte in range(length):
                arena[start + byte] = data[begin + byte]
            ends[count + 1] = start + length
            count += 1
            meta = (uint64(kind) << uint64(_KIND_SHIFT)) | uint64(count)
            slots[2 * place] = hashed
            slots[2 * place + 1] = meta
        codes[row] = np.int64(meta & uint64(_CODE)) - 1
    return count


@njit(nogil=True, cache=True)
def find_words(slots, words, validity, first_bit, codes):
    """Codes of 64-bit words [len(codes)]: -1 where the value is null or unknown."""
    last = len(slots) // 2 - 1
    for row in range(len(codes)):
        hashed = _mixed(words[row])
        place = np.int64(hashed & uint64(last))
        while slots[2 * place + 1] != uint64(0) and slots[2 * place] != hashed:
            place = (place + 1) & last
        code = np.int64(slots[2 * place + 1] & uint64(_CODE)) - 1
        codes[row] = code if is_valid(validity, first_bit + row) else -1


@njit(nogil=True, cache=True)
def add_words(slots, known, count, words, validity, first_bit, codes):
    """Codes of 64-bit words [len(codes)], new ones inserted; -1 for null. There must be room. Returns the new count."""
    last = len(slots) // 2 - 1
    for row in range(len(codes)):
        if not is_valid(validity, first_bit + row):
            codes[row] = -1
            continue
        hashed = _mixed(words[row])
        place = np.int64(hashed & uint64(last))
        while slots[2 * place + 1] != uint64(0) and slots[2 * place] != hashed:
            place = (place + 1) & last
        if slots[2 * place + 1] == uint64(0):
            known[count] = words[row]
            count += 1
            slots[2 * place] = hashed
            slots[2 * place + 1] = (uint64(WORD) << uint64(_KIND_SHIFT)) | uint64(count)
        codes[row] = np.int64(slots[2 * place + 1] & uint64(_CODE)) - 1
    return count


@njit(nogil=True, cache=True)
def leading_bytes(data, offsets, words):
    """The first 8 bytes of strings [len(words)] as words in the order of the strings; shorter ones end in zeros."""
    for row in range(len(words)):
        begin = np.int64(offsets[row])
        word = _tail(data, begin, min(np.int64(offsets[row + 1]) - begin, _BYTE))
        swapped = uint64(0)
        for _ in range(_BYTE):
            swapped = (swapped << uint64(8)) | (word & uint64(255))
            word >>= uint64(8)
        words[row] = swapped


@njit(nogil=True, cache=True)
def rehash(slots, larger):
    """Moves everything into a larger, empty table."""
    last = len(larger) // 2 - 1
    for old in range(len(slots) // 2):
        if slots[2 * old + 1] != uint64(0):
            place = np.int64(slots[2 * old] & uint64(last))
            while larger[2 * place + 1] != uint64(0):
                place = (place + 1) & last
            larger[2 * place] = slots[2 * old]
            larger[2 * place + 1] = slots[2 * old + 1]
