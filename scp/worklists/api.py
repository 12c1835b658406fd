"""The REST API of the managed worklist, without the HTTP: requests in, status and JSON out.

    GET    /isen/worklists[?since=&limit=&format=]   a list of {"ID", "Tags", "CreationDate"}
    POST   /isen/worklists, /worklists/create        {"Tags": …, "Force": …} → {"ID", "Path", "Repaired"}
    GET    /isen/worklists/{id}[?format=]            one entry
    PUT    /isen/worklists/{id}                      the same body as POST; makes the entry if there is none, and forces
    DELETE /isen/worklists/{id}                      {}

`/worklists` and `/worklists/{id}` are the same under the names of Orthanc's worklist plugin. `format` is one of
`scp.worklists.tags.FORMATS`. What an answer says has happened is durable.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from scp.statuses import Refusal
from scp.worklists.entry import Unusable, make_entry, read_data_set
from scp.worklists.store import StoredEntry, StoreUnavailable, WorklistStore
from scp.worklists.tags import FORMATS, InvalidTags, data_set_of, tags_of

log = logging.getLogger(__name__)

MAXIMUM_PAGE: Final = 10_000  # entries in one answer
_ID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_PATH: Final = re.compile(r"(/isen/worklists|/worklists)(?:/([^/]+))?/?")


@dataclass(frozen=True)
class Request:
    """One HTTP request as the plugin hands it on."""

    method: str
    path: str
    arguments: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Answer:
    """HTTP status and JSON document."""

    status: int
    document: Any


class _Failure(Exception):
    """What the caller has to change, and the HTTP status that says so."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Api:
    """Answers requests. Thread-safe."""

    def __init__(self, store: WorklistStore, station: str, *, make_study: bool = True) -> None:
        """`station` is the ScheduledStationAETitle of entries without one; `make_study`: see `make_entry`."""
        self._store = store
        self._station = station
        self._make_study = make_study

    def answer(self, request: Request) -> Answer:
        """Never raises."""
        try:
            return Answer(200, self._handler(request)(request))
        except _Failure as failure:
            return _error(failure.status, str(failure))
        except (InvalidTags, Unusable) as error:
            return _error(400, str(error))
        except StoreUnavailable as error:
            log.error("worklist_store_unavailable reason=%r", str(error))  # noqa: TRY400 - one line per event
            return _error(503, str(error))
        except Refusal as refusal:
            return _error(500, f"the entry is damaged: {refusal.comment}")
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller must not wait; its text may hold a value
            log.error("worklist_request_failed exception=%s", type(error).__name__)  # noqa: TRY400 - as above
            return _error(500, "the request failed; see the log")

    def _handler(self, request: Request) -> Callable[[Request], Any]:
        path = _PATH.fullmatch(request.path)
        if not path:
            raise _Failure(404, "there is no such route")
        root, entry_id = path.groups()
        if entry_id is None:
            handlers = {"GET": self._list, **({"POST": self._create} if root.startswith("/isen") else {})}
        elif entry_id == "create" and not root.startswith("/isen"):
            handlers = {"POST": self._create}
        else:
            handlers = {"GET": self._get, "PUT": self._put, "DELETE": self._delete}
        if request.method not in handlers:
            raise _Failure(405, ",".join(handlers))
        return handlers[request.method]

    def _list(self, request: Request) -> list[Any]:
        form = _format(request)
        since, limit = _number(request, "since", 0), _number(request, "limit", 0)
        if limit > MAXIMUM_PAGE or (not limit and self._store.count() - since > MAXIMUM_PAGE):
            raise _Failure(400, f"ask for at most {MAXIMUM_PAGE} entries at a time, with the arguments since and limit")
        return [_described(stored, form) for stored in self._store.page(since, limit or MAXIMUM_PAGE)]

    def _create(self, request: Request) -> dict[str, Any]:
        return self._write(request, None, force=False)

    def _put(self, request: Request) -> dict[str, Any]:
        return self._write(request, _entry_id(request), force=True)

    def _write(self, request: Request, entry_id: str | None, *, force: bool) -> dict[str, Any]:
        body = _body(request)
        force = body.get("Force", force)
        if not isinstance(force, bool):
            raise _Failure(400, "'Force' must be true or false")
        entry, repaired = make_entry(data_set_of(body["Tags"]), self._station, force=force, make_study=self._make_study)
        with self._store.transaction() as changes:
            entry_id = changes.put(entry, entry_id)
        root = "/isen/worklists" if request.path.startswith("/isen") else "/worklists"
        return {"ID": entry_id, "Path": f"{root}/{entry_id}", "Repaired": repaired}

    def _get(self, request: Request) -> dict[str, Any]:
        form = _format(request)
        stored = self._store.get(_entry_id(request))
        if stored is None:
            raise _Failure(404, "there is no such entry")
        return _described(stored, form)

    def _delete(self, request: Request) -> dict[str, Any]:
        with self._store.transaction() as changes:
            if not changes.remove(_entry_id(request)):
                raise _Failure(404, "there is no such entry")
        return {}


def _error(status: int, message: str) -> Answer:
    return Answer(status, {"HttpStatus": status, "Message": message})


def _described(stored: StoredEntry, form: str) -> dict[str, Any]:
    return {
        "ID": stored.id,
        "Tags": tags_of(read_data_set(stored.data_set), form),
        "CreationDate": stored.created_at,
    }


def _entry_id(request: Request) -> str:
    entry_id = request.path.rstrip("/").rpartition("/")[2]
    if not _ID.fullmatch(entry_id):
        raise _Failure(404, "the id of an entry is a UUID in lower case")
    return entry_id


def _format(request: Request) -> str:
    form = request.arguments.get("format", FORMATS[0])
    if form not in FORMATS:
        raise _Failure(400, f"format must be one of {', '.join(FORMATS)}")
    return form


def _number(request: Request, name: str, default: int) -> int:
    text = request.arguments.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise _Failure(400, f"{name} must be a whole number")
    return int(text)


def _body(request: Request) -> dict[str, Any]:
    try:
        body = json.loads(request.body)
    except (ValueError, RecursionError):
        raise _Failure(400, "the body must be JSON") from None
    if not isinstance(body, dict) or not isinstance(body.get("Tags"), dict):
        raise _Failure(400, "the body must be an object with 'Tags', an object")
    return body
