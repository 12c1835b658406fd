"""From the bucket to whoever asks, or is likely to: the parts of that, and how they know each other.

The fetcher brings one attachment. The prefetcher has it bring what may be asked for next, which the index of series
tells: after a read, or because the plugin or a worker announces it.
"""

from __future__ import annotations

from backend.transfer.confirmer import Confirmer
from backend.transfer.deliveries import Deliveries
from backend.transfer.fetcher import Fetcher
from backend.transfer.good_copies import GoodCopies
from backend.transfer.prefetch_requests import PrefetchRequests
from backend.transfer.prefetcher import Prefetcher
from backend.transfer.read_ahead import ReadAhead
from backend.transfer.series_index import SeriesIndex
from backend.transfer.shared import Shared
from config.settings import HybridMode


class ReadPath:
    """What downloads."""

    def __init__(self, shared: Shared, index: SeriesIndex) -> None:
        settings, spool = shared.settings, shared.spool
        self.good_copies = GoodCopies(spool, shared.writes, shared.key, names=shared.names, counters=shared.counters)
        self.fetcher = Fetcher(
            spool,
            shared.cache,
            shared.reads,
            shared.key,
            names=shared.names,
            availability=shared.availability,
            counters=shared.counters,
            concurrent=settings.concurrent_downloads,
            patience=settings.missing_object_patience,
            storage_directory=shared.storage_directory,
            good_copy=self.good_copies.use,
        )
        self._prefetcher = Prefetcher(
            self.fetcher,
            shared.cache,
            availability=shared.availability,
            counters=shared.counters,
            threads=settings.concurrent_downloads,
        )
        self.read_ahead = ReadAhead(index, self._prefetcher, settings.cache_directory, legacy=shared.is_legacy)
        self.prefetch_requests = PrefetchRequests(index, self._prefetcher, shared.availability, legacy=shared.is_legacy)
        self.deliveries = Deliveries(self.fetcher, self._prefetcher)
        is_leaving = settings.hybrid_mode is HybridMode.WRITE_TO_FILE_SYSTEM  # then nothing is on its way to S3
        self.confirmer = Confirmer(
            spool,
            settings.cache_directory,
            shared.reads,
            shared.key,
            shared.availability,
            migrating_from=None if is_leaving else shared.storage_directory,
        )

    def start(self) -> None:
        self._prefetcher.start()
        self.read_ahead.start()
        self.prefetch_requests.start()

    def fetch(self, name: str) -> int:
        """As the fetcher does; what may be read next is fetched ahead."""
        descriptor = self.fetcher.fetch(name)
        self.read_ahead.read(name, missed=True)
        return descriptor
