"""The matches of a query, read from Orthanc in batches: constant memory but for the candidates' identifiers."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from scp.matching import Attribute, Candidate, Matcher
from scp.matching.candidate import AttributeName, kind_of
from scp.orthanc_client import OrthancClient, ResourceMissing
from scp.query.computed import MODALITIES_IN_STUDY, MODALITY, computed_attributes
from scp.query.entities import Entity, EntityReader, attributes_of, decoded_value, literal_name
from scp.query.model import ORTHANC_LEVELS, Level
from scp.query.orthanc_query import orthanc_queries
from scp.query.plan import Plan

FIRST_BATCH: Final = 50  # entities; small, so that the first answers come soon
LARGEST_BATCH: Final = 400
CONCURRENT_FILES: Final = 8  # each may be a request to S3

Found = tuple[Entity, dict[AttributeName, Attribute]]


def find_candidates(client: OrthancClient, plan: Plan) -> list[str]:
    """Orthanc identifiers of everything at the plan's search level that may match.

    Raises:
        OrthancError: Orthanc could not say.
    """
    level = ORTHANC_LEVELS[plan.search_level]
    found = [client.find(level, query) for query in orthanc_queries(plan.askable, other_clock=plan.clock is not None)]
    return list(dict.fromkeys(id_ for ids in found for id_ in ids))


def matching_entities(
    client: OrthancClient,
    plan: Plan,
    matcher: Matcher,
    candidates: Sequence[str],
    *,
    with_files: bool,
    is_cancelled: Callable[[], bool],
) -> Iterator[Candidate]:
    """Each entity of the plan's level that matches, once, with all that its answer needs, by the plan's clock.

    Entities that were removed meanwhile are left out. Ends early, before the next batch, when `is_cancelled`.

    Raises:
        OrthancError: Orthanc could not describe them.
    """
    reader = EntityReader(client, plan.search_level, metadata=plan.needs_metadata)
    answered: set[str] = set()
    adders: list[tuple[bool, Callable[[list[Found]], None]]] = []  # (it decides, it adds attributes)
    if plan.computed:
        adders.append((plan.matches_computed, lambda found: _add_computed(client, plan, found)))
    if with_files and plan.in_files:
        adders.append((plan.matches_files, lambda found: _add_from_files(client, plan, found)))
    seen = plan.clock.adjusted if plan.clock else lambda candidate: candidate
    for entities in _ahead(reader.read, _batches(candidates, is_cancelled)):
        found = [(entity, dict(entity.attributes)) for entity in entities]
        for decides, add in adders:
            if decides:
                add(found)
        found = [pair for pair in found if matcher.matches(seen(Candidate(pair[1])))]
        if plan.search_level != plan.level:
            found = _first_of_each(found, plan.level, answered)
        for decides, add in adders:
            if not decides:
                add(found)
        for _, attributes in found:
            yield seen(Candidate(attributes))


def _batches(ids: Sequence[str], is_cancelled: Callable[[], bool]) -> Iterator[Sequence[str]]:
    start, size = 0, FIRST_BATCH
    while start < len(ids) and not is_cancelled():
        yield ids[start : start + size]
        start += size
        size = min(2 * size, LARGEST_BATCH)


def _ahead(
    read: Callable[[Sequence[str]], list[Entity]], batches: Iterator[Sequence[str]]
) -> Generator[list[Entity], None, None]:
    """What `read` returns for each batch; the next one is read while the one before is answered."""
    batch = next(batches, None)
    if batch is None:
        return
    entities = read(batch)
    with ThreadPoolExecutor(1, "find-ahead") as thread:
        for following in batches:
            future = thread.submit(read, following)
            yield entities
            entities = future.result()
    yield entities


def _first_of_each(found: list[Found], level: Level, answered: set[str]) -> list[Found]:
    firsts = []
    for entity, attributes in found:
        if entity.ids[level] not in answered:
            answered.add(entity.ids[level])
            firsts.append((entity, attributes))
    return firsts


def _add_computed(client: OrthancClient, plan: Plan, found: list[Found]) -> None:
    values = computed_attributes(client, plan.computed, [entity for entity, _ in found])
    for (_, attributes), computed in zip(found, values, strict=True):
        attributes.update(computed)
        if plan.modality_of_study and MODALITIES_IN_STUDY in computed:
            attributes[MODALITY] = computed[MODALITIES_IN_STUDY]


def _add_from_files(client: OrthancClient, plan: Plan, found: list[Found]) -> None:
    """Attributes outside of the index, from the file of one instance of each entity."""
    if not found:
        return

    private_vrs = plan.private_vrs

    def read(instance: str) -> dict[AttributeName, Attribute]:
        try:
            tags = client.instance_tags(instance) if instance else {}
            return attributes_of(tags, private_vrs) | _undecoded(client, plan, instance, tags)
        except ResourceMissing:
            return {}

    with ThreadPoolExecutor(CONCURRENT_FILES, "find-files") as threads:
        files = threads.map(read, _instances_of(client, plan.search_level, [entity for entity, _ in found]))
        for (_, attributes), file in zip(found, files, strict=True):
            attributes.update((name, file[name]) for name in plan.in_files if name in file)


def _undecoded(
    client: OrthancClient, plan: Plan, instance: str, tags: Mapping[str, Any]
) -> dict[AttributeName, Attribute]:
    """The private attributes asked for that Orthanc leaves undecoded: those of data sets in Implicit VR."""
    found: dict[AttributeName, Attribute] = {}
    for name, vr in plan.private_vrs.items():
        literal = literal_name(name, tags)
        if literal is not None and tags[literal] is None and kind_of(vr) != "bytes":
            value = client.instance_value(instance, literal)
            found[name] = decoded_value(name, vr, value, tags, plan.options.default_encoding)
    return found


def _instances_of(client: OrthancClient, level: Level, entities: list[Entity]) -> list[str]:
    """One instance of each entity, by Orthanc identifier; empty if it was removed meanwhile."""
    if level == Level.IMAGE:
        return [entity.row["ID"] for entity in entities]
    if level == Level.SERIES:
        return [entity.row["Instances"][0] for entity in entities]
    link = "Series" if level == Level.STUDY else "Studies"
    children = [entity.row[link][0] for entity in entities]
    series = client.resources("Series", children)
    by_child = {row["ID"] if level == Level.STUDY else row["ParentStudy"]: row["Instances"][0] for row in series}
    return [by_child.get(child, "") for child in children]
