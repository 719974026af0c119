"""UTF-8 byte by byte (The Unicode Standard, table 3-7): state 0 between characters, else one of `UTF8`."""

from __future__ import annotations

__all__ = ["UTF8", "UTF8_LEFT", "continued", "finished", "lead"]

# state: lowest and highest byte that may come, and the state after it
UTF8: dict[int, tuple[int, int, int]] = {
    1: (0x80, 0xBF, 0),
    2: (0x80, 0xBF, 1),
    3: (0x80, 0xBF, 2),
    4: (0xA0, 0xBF, 1),
    5: (0x80, 0x9F, 1),
    6: (0x90, 0xBF, 2),
    7: (0x80, 0x8F, 2),
}
UTF8_LEFT = (0, 1, 2, 3, 2, 2, 3, 3)


def lead(byte: int) -> int | None:
    """The state after the first byte of a character; None if no character starts so."""
    if byte < 0x80:
        return 0
    special = {0xE0: 4, 0xED: 5, 0xF0: 6, 0xF4: 7}
    if byte in special:
        return special[byte]
    plain = (range(0xC2, 0xE0), range(0xE1, 0xF0), range(0xF1, 0xF4))
    return next((state for state, which in enumerate(plain, 1) if byte in which), None)


def continued(utf8: int, byte: int) -> int | None:
    """The state after a further byte of a character; None if it is none."""
    low, high, after = UTF8[utf8]
    return after if low <= byte <= high else None


def finished(singles: frozenset[int]) -> frozenset[int]:
    """States of a character over several bytes from which bytes among `singles` reach its end."""
    found: set[int] = {0}
    for _ in UTF8:
        found |= {
            state
            for state, (low, high, after) in UTF8.items()
            if after in found and not singles.isdisjoint(range(low, high + 1))
        }
    return frozenset(found)
