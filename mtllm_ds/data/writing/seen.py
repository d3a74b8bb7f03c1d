"""Which texts came before, in little and bounded memory: a hash table of 64-bit fingerprints."""

import hashlib
from array import array

from mtllm_ds.errors import UserError

MOST_SLOTS = 1 << 29
"""4 GiB; two thirds of them may be taken"""
_EMPTY = 0


class SeenTexts:
    """Remembers 8 bytes per text in a table at most two thirds full: 12 to 24 bytes per text, at most `8 * most_slots` bytes.

    Two different texts of n have one fingerprint with a probability of n**2 / 2**65: 3 in 10,000 for a hundred million texts.
    """

    def __init__(self, most_slots: int = MOST_SLOTS) -> None:
        self._most_slots = most_slots
        self._slots = array("Q", bytes(8 * min(1 << 12, most_slots)))
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def num_bytes(self) -> int:
        return 8 * len(self._slots)

    def add(self, text: bytes) -> bool:
        """Remember a text; True if it was new.

        Raises:
            UserError: there are more than may be remembered.
        """
        fingerprint = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") or 1
        slot = self._slot_of(fingerprint)
        if self._slots[slot] == fingerprint:
            return False
        if 3 * (self._count + 1) > 2 * len(self._slots):
            self._grow()
            slot = self._slot_of(fingerprint)
        self._slots[slot] = fingerprint
        self._count += 1
        return True

    def _slot_of(self, fingerprint: int) -> int:
        """Where a fingerprint is, or belongs."""
        slots, last = self._slots, len(self._slots) - 1
        slot = fingerprint & last
        while slots[slot] not in (_EMPTY, fingerprint):
            slot = (slot + 1) & last
        return slot

    def _grow(self) -> None:
        if 2 * len(self._slots) > self._most_slots:
            raise UserError(
                f"--deduplicate: more than {self._count:,} different documents, which is all that is remembered in "
                f"{self.num_bytes >> 20:,} MiB; deduplicate the text beforehand, or prepare it in parts"
            )
        before = self._slots
        self._slots = array("Q", bytes(2 * self.num_bytes))
        for fingerprint in before:
            if fingerprint != _EMPTY:
                self._slots[self._slot_of(fingerprint)] = fingerprint
