from __future__ import annotations

import time
from pathlib import Path

import pytest

from backend.stack.processes import wait_until
from backend.transfer.availability import GET, PUT, Availability, ObservedObjectStore
from backend.transfer.canary import Canary, Recovery, canary_key
from backend.transfer.object_store.errors import AccessDenied, BucketMissing, ObjectCorrupted, Unreachable
from tests.fakes.unsteady_store import UnsteadyStore, raising


def canary(store: UnsteadyStore, availability: Availability, *, create: bool = False) -> Canary:
    observed = ObservedObjectStore(store, availability)
    return Canary("canary", writes=observed, reads=observed, bucket=store if create else None, checksums=store)


def test_it_puts_gets_and_deletes_and_leaves_nothing() -> None:
    store = UnsteadyStore()
    canary(store, Availability()).check()
    assert store.calls == [("put", "canary"), ("get", "canary"), ("delete", "canary")]
    assert store.keys() == []


def test_it_finds_out_each_time_whether_checksums_are_verified() -> None:
    """After an outage another server may answer."""
    store = UnsteadyStore()
    tried = canary(store, Availability())
    assert tried.verifies_checksums is None
    tried.check()
    assert tried.verifies_checksums is True
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "verifies_checksums", lambda _: False)
        tried.check()
    assert tried.verifies_checksums is False


def test_a_refused_delete_does_not_keep_images_out_but_is_the_state() -> None:
    store, availability = UnsteadyStore(), Availability()
    store.before_delete = [raising(AccessDenied("no s3:DeleteObject"))]
    canary(store, availability).check()
    assert availability.report()["State"] == "Denied"


def test_a_missing_bucket_is_made_only_if_that_is_wanted() -> None:
    store = UnsteadyStore()
    store._bucket_exists = False
    with pytest.raises(BucketMissing):
        canary(store, Availability()).check()
    canary(store, Availability(), create=True).check()


def test_other_bytes_than_were_put_are_an_error() -> None:
    store = UnsteadyStore()
    store.after_put = [lambda: store.put_foreign("canary", b"something else")]
    with pytest.raises(ObjectCorrupted):
        canary(store, Availability()).check()


def test_recovery_lets_paused_operations_go_on() -> None:
    store, availability = UnsteadyStore(), Availability()
    store.before_put = [raising(Unreachable("x"))]
    availability.failed(PUT, Unreachable("x"))
    availability.failed(GET, Unreachable("x"))
    recovery = Recovery(canary(store, availability), availability)
    recovery.start()
    wait_until(lambda: availability.report()["State"] == "Available", 10, "it recovers")
    recovery.stop()


def test_recovery_leaves_a_store_that_works_alone() -> None:
    store, availability = UnsteadyStore(), Availability()
    recovery = Recovery(canary(store, availability), availability)
    recovery.start()
    time.sleep(0.3)
    recovery.stop()
    assert store.calls == []


def test_its_key_is_stable_per_spool_and_below_the_root_path() -> None:
    assert canary_key("", Path("/a")) == canary_key("", Path("/a")) != canary_key("", Path("/b"))
    assert canary_key("root", Path("/a")) == "root/" + canary_key("", Path("/a"))
