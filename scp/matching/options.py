"""What the Standard leaves to the implementation or to negotiation in attribute matching, as one value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

SupportedAttributes: TypeAlias = Mapping[int, Any]  # tag -> SupportedAttributes of its items; empty = no items


@dataclass(frozen=True)
class MatchingOptions:
    """How an Identifier is matched; the defaults are those of a Query/Retrieve C-FIND with baseline behaviour."""

    unknown_value_matches: bool = True
    """An attribute that is absent or empty in the candidate matches any key (PS3.4 C.2.2.1.2). False: it matches only
    universal keys, as Modality Worklist demands (K.2.2.1.1.1) and as Orthanc does everywhere."""

    case_sensitive_person_names: bool = False
    """Orthanc's CaseSensitivePN. Every other VR is case-sensitive (PS3.4 C.2.2.2.1)."""

    fuzzy_person_names: bool = False
    """Person names are also matched as `scp.matching.fuzzy_name` says (negotiated, PS3.4 C.2.2.2.1.1)."""

    all_values_required: bool = False
    """Several values in a key: all must be found (negotiated, PS3.4 C.2.2.2.8). False: any one, as Orthanc does."""

    empty_value_matching: bool = False
    """The key `""` (two quotation marks) matches only an empty attribute (negotiated, PS3.4 C.2.2.2.7)."""

    combined: tuple[tuple[int, int], ...] = ()
    """Pairs of tags (DA, TM) whose ranges form one interval when both are given as ranges (PS3.4 C.2.2.2.5.4)."""

    timezone_offset: int | None = None
    """Minutes east of UTC of times that come without an offset of their own; None = compare them as they are."""

    default_encoding: str = "latin_1"
    """Python's name of the character set of data sets without SpecificCharacterSet (Orthanc's DefaultEncoding)."""

    supported: SupportedAttributes | None = None
    """Attributes supported for existence whether or not a candidate holds them; an attribute that is neither here nor
    held is not matched and not answered (PS3.4 C.2.2.1.3, K.2.2.1.1.2). None: every attribute is supported."""

    private_vrs: Mapping[tuple[int, str, int], str] = field(default_factory=dict)
    """VR of private attributes by (group, private creator, low byte of the element), for peers that do not send it."""
