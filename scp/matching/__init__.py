"""Attribute matching of PS3.4 C.2.2.2: a C-FIND Identifier against candidate data sets.

    options = MatchingOptions()                       # Query/Retrieve; see its fields for Modality Worklist
    matcher = compile_identifier(keys, options)       # once per request; Refusal 0xA900 for a malformed key
    for data_set in found:
        candidate = Candidate.of(data_set)            # decode once; keep it to match it against many requests
        if matcher.matches(candidate):
            respond(PENDING, matcher.answer(candidate))

Where timezone adjustment was negotiated, `Clock` converts a candidate before it is matched and answered from.

`matches` and `answer` never raise for anything that a candidate holds. Never matched, and left out of the answer (they
are the caller's business): SpecificCharacterSet, TimezoneOffsetFromUTC, QueryRetrieveLevel, group lengths, groups
below 0008.
"""

from scp.matching.candidate import Attribute, Candidate
from scp.matching.clock import Clock
from scp.matching.identifier import Matcher, compile_identifier
from scp.matching.options import MatchingOptions, SupportedAttributes

__all__ = ["Attribute", "Candidate", "Clock", "Matcher", "MatchingOptions", "SupportedAttributes", "compile_identifier"]
