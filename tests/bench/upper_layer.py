"""What the upper layer costs: `python -m tests.bench.upper_layer [name …]`, real workers, a sink instead of Orthanc.

Prints one line per figure. `fuzz` takes minutes; without names everything else runs. Two cores were meant: the workers
share them with the senders.
"""

from __future__ import annotations

import functools
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pynetdicom import AllStoragePresentationContexts

from scp.upper_layer.associate import ContextProposal
from scp.upper_layer.command_set import encode_command_set
from tests.bench.images import CT as CT_IMAGE
from tests.bench.images import Studies
from tests.bench.senders import send
from tests.fakes.raw_peer import CT, EXPLICIT, ID, IMPLICIT, RawPeer, p_data, pdv
from tests.fakes.scp_workers import Workers, eventually, workers

MIB = 1024 * 1024


@contextmanager
def group(count: int = 2, **dicom: Any) -> Iterator[Workers]:
    with (
        tempfile.TemporaryDirectory() as folder,
        workers(Path(folder), count=count, launch={"Discard": True}, **dicom) as w,
    ):
        yield w


def cpu(w: Workers) -> float:
    return sum(worker.cpu_seconds() for worker in w.workers)


def _has_served(w: Workers, count: int) -> bool:
    return sum(worker.report.get("Counters", {}).get("c_store_served", 0) for worker in w.workers) == count


def resident(w: Workers) -> float:
    """MiB of all workers; pages they share count once (PSS)."""
    total = 0
    for worker in w.workers:
        for line in Path(f"/proc/{worker.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return total / 1024


def receive() -> None:
    """500 images of 512 KB, one unmodified dcmsend, then four at once."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        studies = Studies(Path(folder))
        folders = [studies.write(CT_IMAGE, 500).folder for _ in range(4)]
        for senders in (1, 4):
            with group() as w:
                send(w.port, folders[:1])
                before = cpu(w)
                seconds = send(w.port, folders[:senders])
                count = 500 * senders
                eventually(functools.partial(_has_served, w, count + 500))
                used = (cpu(w) - before) / count * 1000
                print(f"receive senders={senders} images_per_s={count / seconds:.0f} cpu_ms_per_image={used:.2f}")


def echo() -> None:
    with group() as w, RawPeer(w.port).established() as peer:
        times = [_timed(peer.echo) for _ in range(2000)]
        print(f"echo median_ms={1000 * statistics.median(times):.3f} p99_ms={1000 * sorted(times)[1980]:.3f}")


def set_up() -> None:
    """TCP connect to A-ASSOCIATE-AC with 120 contexts of four syntaxes."""
    uids = [str(context.abstract_syntax) for context in AllStoragePresentationContexts][:120]
    syntaxes = (EXPLICIT, IMPLICIT, "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.90")
    proposals = [ContextProposal(2 * n + 1, uid, syntaxes) for n, uid in enumerate(uids)]

    def once() -> None:
        peers.append(RawPeer(w.port).established(contexts=proposals))

    peers: list[RawPeer] = []
    with group() as w:
        times = []
        for _ in range(200):
            times.append(_timed(once))
            peers.pop().release()
        print(
            f"set_up contexts=120 median_ms={1000 * statistics.median(times):.2f} "
            f"p99_ms={1000 * sorted(times)[197]:.2f}"
        )


def idle() -> None:
    """500 associations of 120 contexts that do nothing."""
    uids = [str(context.abstract_syntax) for context in AllStoragePresentationContexts][:120]
    proposals = [ContextProposal(2 * n + 1, uid, (EXPLICIT, IMPLICIT)) for n, uid in enumerate(uids)]
    with group(MaximumAssociations=500, ScpTimeout=600) as w:
        before_memory = resident(w)
        peers = [RawPeer(w.port, 60).established(contexts=proposals) for _ in range(500)]
        eventually(lambda: w.associations() == 500)
        time.sleep(2)
        start, before = time.monotonic(), cpu(w)
        time.sleep(10)
        share = (cpu(w) - before) / (time.monotonic() - start) * 100
        threads = sum(worker.threads() for worker in w.workers)
        rss = sum(worker.resident() for worker in w.workers) / MIB
        print(
            f"idle associations=500 core_percent={share:.1f} pss_mib={resident(w):.0f} (empty "
            f"{before_memory:.0f}) rss_mib={rss:.0f} threads={threads}"
        )
        for peer in peers:
            peer.sock.close()


def full() -> None:
    """200 associations that store at once; the 201st."""
    failures: list[str] = []
    stored = [0]

    def sender(peer: RawPeer) -> None:
        try:
            barrier.wait(60)
            for _ in range(5):
                status = peer.store(data)["Status"]
                assert status == 0, status
                stored[0] += 1
        except Exception as error:  # noqa: BLE001 -- counted and shown
            failures.append(repr(error))

    data = bytes(512 * 1024)
    barrier = threading.Barrier(201)
    with group() as w:
        peers = [RawPeer(w.port, 60).established() for _ in range(200)]
        kind, body = RawPeer(w.port, 20).associate()
        threads = [threading.Thread(target=sender, args=(peer,)) for peer in peers]
        for thread in threads:
            thread.start()
        start = time.monotonic()
        barrier.wait(60)
        for thread in threads:
            thread.join()
        print(
            f"full associations=200 images={stored[0]} failures={len(failures)} "
            f"seconds={time.monotonic() - start:.1f} next={kind}:{body.hex()} {failures[:2]}"
        )
        for peer in peers:
            peer.sock.close()


def stalled() -> None:
    """1000 plain connections that say nothing or half a PDU, C-ECHO of others meanwhile."""
    with group() as w:
        before = cpu(w)
        peers = []
        for number in range(1000):
            peer = RawPeer(w.port)
            peer.send((b"", b"\x01\x00", b"\x01\x00\x00\x00\xff\x00\x00")[number % 3])
            peers.append(peer)
        start = time.monotonic()
        times = [_timed(lambda: _whole_echo(w.port)) for _ in range(500)]
        closed = sum(peer.is_closed_within(max(0.1, start + 15 - time.monotonic())) for peer in peers)
        print(
            f"stalled connections=1000 echo_p99_ms={1000 * sorted(times)[494]:.1f} max_ms={1000 * max(times):.1f} "
            f"closed_in_15s={closed} cpu_s={cpu(w) - before:.2f}"
        )


def stalled_tls() -> None:
    """100 TLS clients that never begin their handshake, C-ECHO of others meanwhile."""
    from tests.fakes.certificates import client_context, make_certificates  # noqa: PLC0415 -- needs openssl

    with tempfile.TemporaryDirectory() as folder:
        files = make_certificates(Path(folder))
        tls = {
            "Certificate": str(files.server),
            "PrivateKey": str(files.server_key),
            "TrustedCertificates": str(files.authority),
        }
        with group(Tls=tls) as w:
            peers = [RawPeer(w.port) for _ in range(100)]
            start = time.monotonic()
            times = [_timed(lambda: _whole_echo(w.port, client_context(files))) for _ in range(100)]
            closed = sum(peer.is_closed_within(max(0.1, start + 15 - time.monotonic())) for peer in peers)
            print(f"stalled_tls clients=100 echo_p99_ms={1000 * sorted(times)[98]:.1f} closed_in_15s={closed}")


def large() -> None:
    """One object of 1 GiB, hashed by the sink from its file."""
    with tempfile.TemporaryDirectory() as folder, workers(Path(folder), count=1) as w:
        peak = [0]
        stop = threading.Event()

        def watch() -> None:
            while not stop.wait(0.02):
                peak[0] = max(peak[0], w[0].resident())

        watcher = threading.Thread(target=watch)
        watcher.start()
        with RawPeer(w.port, 120).established() as peer:
            fields = {"CommandField": 1, "AffectedSOPClassUID": CT, "AffectedSOPInstanceUID": "1.2.3", "Priority": 0}
            command = encode_command_set({"MessageID": 1, "CommandDataSetType": 1, **fields})
            peer.send(p_data(pdv(ID[CT], 3, command)))
            block = p_data(pdv(ID[CT], 0, bytes(131066)))
            start = time.monotonic()
            total = 0
            while total < 1024 * MIB:
                peer.send(block)
                total += 131066
            peer.send(p_data(pdv(ID[CT], 2, b"")))
            response, _ = peer.response()
            seconds = time.monotonic() - start
        stop.set()
        watcher.join()
        print(
            f"large bytes={total} status={response['Status']} comment={response['ErrorComment'].split()[0]} "
            f"seconds={seconds:.1f} peak_rss_mib={peak[0] / MIB:.0f}"
        )


def _whole_echo(port: int, tls: Any = None) -> None:
    with RawPeer(port, tls=tls).established() as peer:
        assert peer.echo() == 0
        peer.release()


def _timed(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


FIGURES: dict[str, Callable[[], None]] = {
    function.__name__: function for function in (receive, echo, set_up, idle, full, stalled, stalled_tls, large)
}

if __name__ == "__main__":
    for name in sys.argv[1:] or FIGURES:
        FIGURES[name]()
