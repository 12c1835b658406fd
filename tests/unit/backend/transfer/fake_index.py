"""Orthanc's index as the transfer process asks it, in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any, BinaryIO

from backend.maintenance.content import orthanc_id
from backend.maintenance.index import IndexedAttachment
from backend.transfer.dicom_header import sop_instance_uid
from tests.fakes.transfer_child import name_of


class FakeIndex:
    """Instances. Posting makes one; deleting tells `on_removed`, as Orthanc tells its plugin."""

    def __init__(self) -> None:
        self.instances: dict[str, dict[str, str]] = {}  # Orthanc's identifier → attachment → name
        self.described: dict[str, tuple[int, str]] = {}  # name → size and MD5
        self.uids: dict[str, str] = {}  # identifier → SOPInstanceUID; of others it is the identifier itself
        self.posted: list[bytes] = []
        self.answers: list[str | Exception] = []  # to the next posts; "Success" when there are no more
        self.failures: list[Exception] = []  # of the next questions
        self.kind_failures: list[Exception] = []  # of the next questions of which kind it is
        self.refusals: list[Exception] = []  # of the next deletions
        self.questions = 0
        self.builtin = True
        self.on_removed: Callable[[str], None] = lambda name: None
        self.before_answer: Callable[[], None] = lambda: None
        self.after_answer: Callable[[], None] = lambda: None

    def add(self, instance: str, name: str, attachment: str = "dicom") -> None:
        self.instances.setdefault(instance, {})[attachment] = name

    def with_sop_instance(self, uid: str) -> list[IndexedAttachment]:
        self.questions += 1
        self.before_answer()
        if self.failures:
            raise self.failures.pop(0)
        same = [instance for instance in self.instances if self.uids.get(instance, instance) == uid]
        found = [attachment for instance in same for attachment in self._attachments(instance)]
        self.after_answer()
        return found

    def attachments(self) -> Iterator[tuple[int, list[IndexedAttachment]]]:
        if self.failures:
            raise self.failures.pop(0)
        for instance in list(self.instances):
            yield 1, self._attachments(instance)

    def is_builtin(self) -> bool:
        if self.kind_failures:
            raise self.kind_failures.pop(0)
        return self.builtin

    def post_instance(self, content: bytes | BinaryIO) -> dict[str, Any]:
        body = content if isinstance(content, bytes) else content.read()
        answer = self.answers.pop(0) if self.answers else "Success"
        if isinstance(answer, Exception):
            raise answer
        instance, uid = orthanc_id(body), sop_instance_uid(BytesIO(body))
        assert instance
        assert uid
        if answer == "Success":
            self.posted.append(body)
            self.uids[instance] = uid
            self.add(instance, name_of(1000 + len(self.posted)))
            self.add(instance, name_of(1000 + len(self.posted), ".dcm.head"), "dicom-until-pixel-data")
        return {"Status": answer, "ID": instance}

    def delete_instance(self, instance: str) -> None:
        if self.refusals:
            raise self.refusals.pop(0)
        for name in self.instances.pop(instance).values():
            self.on_removed(name)

    def _attachments(self, instance: str) -> list[IndexedAttachment]:
        found = self.instances.get(instance, {}).items()
        return [
            IndexedAttachment(name, *self.described.get(name, (1, "")), "instances", instance, attachment)
            for attachment, name in found
        ]
