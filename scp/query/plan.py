"""What a query asks for, sorted by where the answer comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from scp.matching import Attribute, Candidate, Clock, MatchingOptions
from scp.matching.attribute import is_universal
from scp.matching.candidate import AttributeName, PrivateVrs
from scp.query.computed import COMPUTED, MATCHED, MODALITIES_IN_STUDY, MODALITY
from scp.query.main_dicom_tags import METADATA, MainDicomTags
from scp.query.model import QUERY_RETRIEVE_LEVEL, UNIQUE_KEYS, Level

RETRIEVE_AE_TITLE: Final = 0x00080054
TIMEZONE_OFFSET_FROM_UTC: Final = 0x00080201
NEVER_EMPTY: Final = frozenset(tag for level, tag in UNIQUE_KEYS.items() if level != Level.PATIENT)
_NOT_KEYS: Final = frozenset({QUERY_RETRIEVE_LEVEL, RETRIEVE_AE_TITLE, TIMEZONE_OFFSET_FROM_UTC})


@dataclass
class Plan:
    """Where each key of an Identifier is found; made by `plan_query`."""

    level: Level
    search_level: Level  # the lowest level whose attributes are matched, at or below `level`
    options: MatchingOptions
    clock: Clock | None  # by which dates and times are matched and answered; None: as they are stored
    indexed: dict[int, Attribute] = field(default_factory=dict)  # Orthanc's index has them, with the keys' values
    computed: set[int] = field(default_factory=set)
    ignored_values: set[int] = field(default_factory=set)  # computed attributes that are returned, not matched
    in_files: dict[AttributeName, Attribute] = field(default_factory=dict)
    needs_metadata: bool = False
    modality_of_study: bool = False  # an empty Modality at STUDY level: answered with ModalitiesInStudy
    unsupported: set[AttributeName] = field(default_factory=set)

    @property
    def matches_computed(self) -> bool:
        """Whether computed attributes decide, and not only are returned."""
        return any(not is_universal(*self.indexed[tag]) for tag in self.computed & MATCHED if tag in self.indexed)

    @property
    def matches_files(self) -> bool:
        """Whether attributes outside of the index decide."""
        return any(not is_universal(vr, values) for vr, values in self.in_files.values())

    @property
    def askable(self) -> dict[int, Attribute]:
        """The keys that Orthanc's index may decide.

        It cannot tell a name that is like another, nor an attribute without a value; ModalitiesInStudy it knows in
        queries of studies only.
        """
        askable = {}
        for tag, key in self.indexed.items():
            is_fuzzy = key.vr == "PN" and self.options.fuzzy_person_names
            may_be_unknown = self.options.unknown_value_matches and tag not in NEVER_EMPTY
            if not (is_fuzzy or may_be_unknown or (tag in self.computed and self.search_level != Level.STUDY)):
                askable[tag] = key
        return askable

    @property
    def private_vrs(self) -> PrivateVrs:
        """VR of the private keys, as the request or a dictionary has it."""
        names = ((name, key.vr) for name, key in self.in_files.items() if not isinstance(name, int))
        return {name: vr for name, vr in names if vr != "UN"}

    def supported(self, *, with_files: bool) -> Mapping[Any, Any]:
        """What `MatchingOptions.supported` wants to know; `with_files`: files may be read for this query."""
        names: set[AttributeName] = {*self.indexed, *self.computed, *METADATA}
        if self.modality_of_study:
            names.add(MODALITY)
        if with_files:
            names.update(self.in_files)
        return dict.fromkeys(names - self.unsupported)


def plan_query(
    keys: Candidate, level: Level, main_tags: MainDicomTags, options: MatchingOptions, clock: Clock | None
) -> Plan:
    """Sort the keys of a query at `level`."""
    plan = Plan(level, level, options, clock)
    for name, attribute in keys.attributes.items():
        if name in _NOT_KEYS:
            continue
        if not isinstance(name, int):
            plan.in_files[name] = attribute
        elif name in COMPUTED:
            _add_computed(plan, name, attribute)
        elif name in METADATA and level == Level.IMAGE:
            plan.needs_metadata = True
        else:
            _add_stored(plan, name, attribute, main_tags)
    return plan


def without_ignored_keys(identifier: Dataset, plan: Plan) -> Dataset:
    """The identifier as it is matched: keys of attributes supported for existence only lose their values."""
    matched = Dataset()
    for tag in identifier.keys():  # noqa: SIM118 - iterating a Dataset yields elements, and converts them
        if tag in _NOT_KEYS:
            continue
        matched[tag] = DataElement(tag, "IS", None) if tag in plan.ignored_values else identifier.get_item(tag)
    return matched


def _add_computed(plan: Plan, tag: int, attribute: Attribute) -> None:
    if COMPUTED[tag] > plan.level:
        plan.unsupported.add(tag)
        return
    plan.computed.add(tag)
    if tag in MATCHED:
        plan.indexed[tag] = attribute
    else:
        plan.ignored_values.add(tag)


def _add_stored(plan: Plan, tag: int, attribute: Attribute, main_tags: MainDicomTags) -> None:
    owners = [level for level in Level if tag in main_tags[level]]
    if not owners:
        plan.in_files[tag] = attribute
    elif owners[0] <= plan.level:
        plan.indexed[tag] = attribute
    elif not is_universal(*attribute):
        plan.indexed[tag] = attribute
        plan.search_level = max(plan.search_level, owners[0])
    elif tag == MODALITY and plan.level == Level.STUDY:
        plan.modality_of_study = True
        plan.computed.add(MODALITIES_IN_STUDY)
    else:
        plan.unsupported.add(tag)
