"""Orthanc's index as the transfer process asks it, in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any, BinaryIO

from backend.maintenance.index import IndexedAttachment
from backend.transfer.dicom_header import sop_instance_uid
from tests.fakes.transfer_child import name_of


class FakeIndex:
    """Instances by SOPInstanceUID. Posting makes one; deleting tells `on_removed`, as Orthanc tells its plugin."""

    def __init__(self) -> None:
        self.instances: dict[str, dict[str, str]] = {}  # SOPInstanceUID → attachment → name
        self.posted: list[bytes] = []
        self.answers: list[str | Exception] = []  # to the next posts; "Success" when there are no more
        self.failures: list[Exception] = []  # of the next questions
        self.kind_failures: list[Exception] = []  # of the next questions of which kind it is
        self.questions = 0
        self.builtin = True
        self.on_removed: Callable[[str], None] = lambda name: None
        self.before_answer: Callable[[], None] = lambda: None
        self.after_answer: Callable[[], None] = lambda: None

    def add(self, uid: str, name: str, attachment: str = "dicom") -> None:
        self.instances.setdefault(uid, {})[attachment] = name

    def with_sop_instance(self, uid: str) -> list[IndexedAttachment]:
        self.questions += 1
        self.before_answer()
        if self.failures:
            raise self.failures.pop(0)
        found = self._attachments(uid)
        self.after_answer()
        return found

    def attachments(self) -> Iterator[tuple[int, list[IndexedAttachment]]]:
        if self.failures:
            raise self.failures.pop(0)
        for uid in list(self.instances):
            yield 1, self._attachments(uid)

    def is_builtin(self) -> bool:
        if self.kind_failures:
            raise self.kind_failures.pop(0)
        return self.builtin

    def post_instance(self, content: bytes | BinaryIO) -> dict[str, Any]:
        body = content if isinstance(content, bytes) else content.read()
        answer = self.answers.pop(0) if self.answers else "Success"
        if isinstance(answer, Exception):
            raise answer
        if answer == "Success":
            self.posted.append(body)
            uid = sop_instance_uid(BytesIO(body))
            assert uid
            self.add(uid, name_of(1000 + len(self.posted)))
            self.add(uid, name_of(1000 + len(self.posted), ".dcm.head"), "dicom-until-pixel-data")
        return {"Status": answer}

    def delete_instance(self, instance: str) -> None:
        for name in self.instances.pop(instance).values():
            self.on_removed(name)

    def _attachments(self, uid: str) -> list[IndexedAttachment]:
        found = self.instances.get(uid, {}).items()
        return [IndexedAttachment(name, 1, "", "instances", uid, attachment) for attachment, name in found]
