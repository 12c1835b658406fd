"""Orthanc's `Dictionary` option: the value representations of private attributes that no other dictionary has.

    "Dictionary": {"0011,1001": ["LO", "TubeSerial", 1, 1, "ACME 1.1"]}     VR, name, multiplicity from, to, creator

Orthanc refuses to start with a private attribute without a creator. The block is that of nobody (PS3.5 7.8.1): `1001`
and `01` name the same element.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from scp.matching.candidate import PrivateName

_CREATOR: Final = 4  # its place in an entry


def private_vrs(dictionary: Mapping[str, Sequence[str | int]]) -> dict[PrivateName, str]:
    """Private attribute -> VR, of the entries that name a creator."""
    found = {}
    for tag, entry in dictionary.items():
        group, _, element = tag.partition(",")
        if len(entry) > _CREATOR:
            found[int(group, 16), str(entry[_CREATOR]), int(element, 16) & 0xFF] = str(entry[0])
    return found
