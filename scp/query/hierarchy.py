"""The hierarchical search of PS3.4 C.4.1.2.1, and retrieval of C.4.2.2.1, for an SCP that insists on them.

Isen does so with `StrictHierarchy` only, and not towards peers that have negotiated relational queries; otherwise it
takes keys of any level, as Orthanc does (C.4.1.3.2).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydicom.datadict import keyword_for_tag

from scp.matching import Attribute
from scp.matching.attribute import is_universal
from scp.matching.candidate import AttributeName
from scp.matching.wild_card import has_wild_card
from scp.query.main_dicom_tags import MainDicomTags
from scp.query.model import UNIQUE_KEYS, Level, Root
from scp.statuses import DATA_SET_DOES_NOT_MATCH, Refusal


def check_unique_keys(keys: Mapping[Any, Attribute], root: Root, level: Level) -> None:
    """Each level above `level` needs a single value of its unique key.

    Raises:
        Refusal: 0xA900, one of them has none, several, or a wild card.
    """
    for above in Level:
        if root.top <= above < level:
            tag = UNIQUE_KEYS[above]
            values = keys[tag].values if tag in keys else ()
            if len(values) != 1 or has_wild_card(values[0]):
                raise Refusal(DATA_SET_DOES_NOT_MATCH, f"{keyword_for_tag(tag)}: not a single value (StrictHierarchy)")


def check_hierarchy(
    keys: Mapping[AttributeName, Attribute], root: Root, level: Level, main_tags: MainDicomTags
) -> None:
    """The unique keys of the levels above, nothing else of another level, and the unique key of the level itself.

    Raises:
        Refusal: 0xA900, a key is missing, or is one of another level.
    """
    check_unique_keys(keys, root, level)
    if UNIQUE_KEYS[level] not in keys:
        raise Refusal(DATA_SET_DOES_NOT_MATCH, f"{keyword_for_tag(UNIQUE_KEYS[level])} is missing (StrictHierarchy)")
    for tag, (vr, values) in keys.items():
        owners = [max(owner, root.top) for owner in Level if tag in main_tags[owner]]
        if owners and level not in owners and tag not in UNIQUE_KEYS.values() and not is_universal(vr, values):
            label = keyword_for_tag(tag) if isinstance(tag, int) else "private attribute"
            raise Refusal(DATA_SET_DOES_NOT_MATCH, f"{label}: a key of another level (StrictHierarchy)")
    below = [UNIQUE_KEYS[lower] for lower in Level if lower > level and UNIQUE_KEYS[lower] in keys]
    if any(not is_universal(*keys[tag]) for tag in below):
        raise Refusal(DATA_SET_DOES_NOT_MATCH, f"{keyword_for_tag(below[0])}: a key of another level (StrictHierarchy)")
