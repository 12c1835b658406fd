"""Requests for commitment as files: kept once, worked on by one, remembered afterwards (PS3.4 J.3.3.1.2)."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from scp.statuses import RESOURCE_LIMITATION, Refusal
from scp.storage_commitment import transactions as module
from scp.storage_commitment.transactions import Reference, Transaction, Transactions

REQUEST = Transaction("1.2.3", (Reference("1.2", "1.2.3.4"),), "ct", "CT1", "ISEN", 1000.0)


@pytest.fixture
def transactions(tmp_path: Path) -> Transactions:
    return Transactions(tmp_path)


def stored(transactions: Transactions, name: str) -> Transaction:
    with transactions.claimed(name) as transaction:
        assert transaction is not None
        return transaction


def test_a_request_survives_as_it_was(transactions: Transactions, tmp_path: Path) -> None:
    name = transactions.accept(REQUEST)
    assert stored(Transactions(tmp_path), name) == REQUEST
    assert REQUEST.transaction_uid not in name


def test_a_repeated_request_is_kept_once(transactions: Transactions) -> None:
    """A peer that missed our response sends it again."""
    name = transactions.accept(REQUEST)
    assert transactions.accept(replace(REQUEST, received_at=2000.0)) == name
    assert transactions.names() == [name]


@pytest.mark.parametrize("finished", [False, True])
def test_a_transaction_uid_in_use_or_used_makes_a_duplicate(transactions: Transactions, *, finished: bool) -> None:
    name = transactions.accept(REQUEST)
    if finished:
        transactions.finish(name)
    other = replace(REQUEST, references=(Reference("1.2", "9.9"),))
    duplicate = transactions.accept(other)
    assert duplicate != name
    assert stored(transactions, duplicate) == replace(other, is_duplicate=True)


def test_peers_do_not_take_each_others_transaction_uids(transactions: Transactions) -> None:
    transactions.accept(REQUEST)
    other = replace(REQUEST, calling_ae_title="MR1", modality="mr")
    assert stored(transactions, transactions.accept(other)) == other


def test_one_works_on_a_request_at_a_time(transactions: Transactions, tmp_path: Path) -> None:
    name = transactions.accept(REQUEST)
    other = Transactions(tmp_path)
    with transactions.claimed(name) as mine:
        assert mine == REQUEST
        with other.claimed(name) as theirs:
            assert theirs is None
    with other.claimed(name) as theirs:
        assert theirs == REQUEST


def test_the_outcome_is_kept_until_the_report_is_delivered(transactions: Transactions, tmp_path: Path) -> None:
    name = transactions.accept(REQUEST)
    assert transactions.outcome(name) is None
    transactions.settle(name, {"1.2.3.4": 0x0112})
    assert Transactions(tmp_path).outcome(name) == {"1.2.3.4": 0x0112}
    transactions.finish(name)
    assert transactions.names() == os.listdir(tmp_path / "outcomes") == []
    with transactions.claimed(name) as transaction:
        assert transaction is None


def test_used_transaction_uids_are_forgotten_after_a_month(transactions: Transactions, tmp_path: Path) -> None:
    name = transactions.accept(REQUEST)
    transactions.finish(name)
    transactions.forget_old()
    assert os.listdir(tmp_path / "finished") == [name]
    month_ago = time.time() - 31 * 86400
    os.utime(tmp_path / "finished" / name, (month_ago, month_ago))
    transactions.forget_old()
    assert os.listdir(tmp_path / "finished") == []


def test_open_requests_are_bounded(transactions: Transactions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAXIMUM_OPEN", 1)
    transactions.accept(REQUEST)
    with pytest.raises(Refusal) as refusal:
        transactions.accept(replace(REQUEST, transaction_uid="1.2.4"))
    assert refusal.value.status == RESOURCE_LIMITATION


def test_a_full_disk_is_a_resource_limitation(transactions: Transactions, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(Refusal) as refusal:
        transactions.accept(REQUEST)
    assert refusal.value.status == RESOURCE_LIMITATION
    assert transactions.names() == []
