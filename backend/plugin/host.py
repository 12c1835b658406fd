"""Isen's start inside Orthanc: from Orthanc's configuration to registered callbacks and running children.

Everything that can be wrong is found out here, before Orthanc opens its ports: an exception while the script loads
stops Orthanc, and the last log line says what to mend. No child survives it.
"""

from __future__ import annotations

import atexit
import json
import math
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from backend import messages
from backend.plugin.attachments import Attachments
from backend.plugin.commitment_routes import CommitmentRoutes
from backend.plugin.configuration import (
    ConfigurationRefused,
    child_environment,
    interpreter,
    key_variables,
    resolve,
)
from backend.plugin.mpps_routes import MppsRoutes
from backend.plugin.open_folders import open_folders
from backend.plugin.origin_routes import OriginRoutes
from backend.plugin.prefetch_route import PrefetchRoute
from backend.plugin.status import TRANSFER, Status
from backend.plugin.storage_area import StorageArea
from backend.plugin.storage_area3 import StorageArea3
from backend.plugin.thread_states import ThreadStates
from backend.plugin.transfer_client import TransferClient
from backend.plugin.worklist_routes import WorklistRoutes
from backend.spool import SpoolInUse
from config.children import Child, ChildSpec
from config.folder_format import UnusableFormat
from config.scp_workers import scp_settings, worker_specs
from config.supervisor import CannotStart, Supervisor

_WORKER_PATIENCE: Final = 5.0  # seconds for running associations when Orthanc stops
_TRANSFER_PATIENCE: Final = 4.0
_METRICS_INTERVAL: Final = 5.0
_callbacks: Final[list[Callable[..., Any]]] = []


class IsenCannotStart(Exception):
    """Stops Orthanc's start; what to mend has been logged."""


def start(host: Any, folder: Path) -> None:
    """Set everything up. `host` is the `orthanc` module, `folder` that of `orthanc_plugin.py`.

    Raises:
        IsenCannotStart: the configuration or the machine does not allow it; Orthanc does not start.
    """
    try:
        Isen(host, folder).run()
    except (ConfigurationRefused, CannotStart, SpoolInUse, UnusableFormat, OSError) as error:
        for line in str(error).splitlines():
            host.LogError(f"Isen cannot start: {line}")
        raise IsenCannotStart("see the log lines above") from None


class Isen:
    """What the plugin holds while Orthanc runs."""

    def __init__(self, host: Any, folder: Path) -> None:
        self._host = host
        self._folder = folder
        configuration = json.loads(host.GetConfiguration())
        self._python = interpreter(configuration, folder)
        self._has_rest = bool(configuration.get("HttpServerEnabled", True))
        self._key_variables = key_variables(configuration)
        capabilities = {
            # version 4.3 of the plugin brought the option, and with the SDK it is made from this name
            "AllowThreads": hasattr(host, "LogLevel"),
            "StorageApi": 3 if hasattr(host, "RegisterStorageArea3") else 1,
            "ConfigurationPath": host.GetConfigurationPath(),
        }
        self._settings = resolve(configuration, capabilities, self._python, folder, host.LogWarning)
        self._token = host.GenerateRestApiAuthorizationToken()
        self._next_metrics = math.inf  # Orthanc takes metrics only while its database is open
        self._thread_states = ThreadStates()

    def run(self) -> None:
        """Open the spool, start the children, register the callbacks."""
        self._opened = folders = open_folders(self._host, self._settings["Storage"])
        self._spool = folders.spool
        socket_path = self._spool.directory / "transfer.sock"
        transfer = TransferClient(socket_path)
        attachments = Attachments(
            self._spool,
            folders.cache,
            transfer,
            log_error=self._host.LogError,
            storage_directory=folders.storage_directory,
        )
        worklists, mpps = WorklistRoutes(self._settings, self._spool.directory), MppsRoutes(self._settings)
        children = [self._child(TRANSFER, "backend.transfer", *self._transfer_launch(socket_path, folders.lock))]
        children += self._workers()
        children += [self._child(*process) for process in worklists.processes(self._token)]
        self._supervisor = Supervisor(
            children,
            on_report=self._on_report,
            on_death=self._on_death,
            log_warning=self._host.LogWarning,
            log_error=self._host.LogError,
        )
        self._status = Status(self._host, self._settings, self._spool, attachments, self._supervisor, mpps=mpps)
        self._supervisor.start_all()
        self._register_storage_area(attachments)
        self._register_routes(transfer, worklists, mpps)
        self._host.RegisterOnChangeCallback(self._cheap(self._on_change))
        # the last one registered comes first; Orthanc has closed its index by then
        atexit.register(self._close_descriptors)
        atexit.register(self._spool.end_in_order)
        atexit.register(self._supervisor.close, _TRANSFER_PATIENCE)
        self._supervisor.watch()

    def _note_spool(self) -> None:
        try:
            self._opened.note_spool()
        except OSError as error:
            self._host.LogWarning(f"spool_not_noted reason={error}")

    def _close_descriptors(self) -> None:
        """Let go of the spool and the sockets: `POST /tools/reset` starts Orthanc and us anew in this very process."""
        for descriptor in {number for child in self._supervisor.children for number in child.spec.descriptors}:
            os.close(descriptor)

    def _register_storage_area(self, attachments: Attachments) -> None:
        storage = self._settings["Storage"]
        self._area3 = None
        if hasattr(self._host, "RegisterStorageArea3"):
            self._area3 = area3 = StorageArea3(self._host, attachments, storage)
            self._host.RegisterStorageArea3(
                self._cheap(area3.create), self._cheap(area3.read_range), self._cheap(area3.remove)
            )
        else:
            area = StorageArea(self._host, attachments, storage)
            self._host.RegisterStorageArea(self._cheap(area.create), self._cheap(area.read), self._cheap(area.remove))

    def _register_routes(self, transfer: TransferClient, worklists: WorklistRoutes, mpps: MppsRoutes) -> None:
        """Those of the workers' origins are registered with the workers."""
        routes: dict[str, Callable[..., None]] = {"/isen/status": self._status.answer}
        routes |= CommitmentRoutes(self._host, self._settings, transfer).routes() | mpps.routes()
        routes["/isen/prefetch"] = PrefetchRoute(transfer).answer
        routes |= dict.fromkeys(worklists.patterns(), worklists.answer)
        for pattern, answer in routes.items():
            self._host.RegisterRestCallback(pattern, _kept(answer))

    def _cheap(self, callback: Callable[..., Any]) -> Callable[..., Any]:
        """A callback that comes with every image; kept alive, and with the states of the threads it comes from."""
        return _kept(self._thread_states.kept(callback))

    def _transfer_launch(self, socket_path: Path, lock: int) -> tuple[dict[str, Any], tuple[int, ...]]:
        listener = messages.listen(socket_path).detach()
        launch = {"Settings": self._settings, "Listener": listener}
        if self._has_rest:
            # by both clocks: what the first says of the past is worth nothing once it has been set
            launch |= {"Token": self._token, "Started": time.time(), "StartedMonotonic": time.monotonic()}
        return launch, (listener, lock)

    def _workers(self) -> list[Child]:
        users = self._settings["FrontEndUsers"]
        if self._settings["Dicom"] is not None or users:
            for pattern, answer in OriginRoutes(self._host, self._token, users).routes().items():
                self._host.RegisterRestCallback(pattern, _kept(answer))
        if self._settings["Dicom"] is None:
            return []
        specs = worker_specs(
            scp_settings(self._settings), self._token, _without_credentials(child_environment(self._key_variables))
        )
        return [Child(spec, self._python, self._folder) for spec in specs]

    def _child(self, name: str, module: str, launch: dict[str, Any], descriptors: tuple[int, ...]) -> Child:
        environment = child_environment(self._key_variables if name != TRANSFER else ())
        if name != TRANSFER:
            environment = _without_credentials(environment)
        spec = ChildSpec(name, module, lambda: launch, descriptors, environment)
        return Child(spec, self._python, self._folder)

    def _on_change(self, change: int, _level: int, _resource: str) -> None:
        if change == self._host.ChangeType.ORTHANC_STARTED:
            self._next_metrics = 0.0
            self._note_spool()
            try:
                if self._area3:
                    self._area3.keeps_custom_data = self._index_keeps_custom_data()
            finally:
                self._supervisor.accept()
        elif change == self._host.ChangeType.ORTHANC_STOPPED:
            self._next_metrics = math.inf
            # Orthanc still answers HTTP while it stops: the workers finish what they have, the transfer process stays
            workers = [child for child in self._supervisor.children if child.spec.name != TRANSFER]
            self._supervisor.stop(workers, _WORKER_PATIENCE)

    def _index_keeps_custom_data(self) -> bool:
        """Whether Orthanc's index, which may be a plugin's, has a place for custom data.

        Orthanc does not tell, but it tells of key-value stores, which came in the same version of each index.
        """
        system = json.loads(self._host.RestApiGet("/system"))
        return bool(system.get("Capabilities", {}).get("HasKeyValueStores"))

    def _on_report(self, child: Child) -> None:
        if child.spec.name == TRANSFER:
            self._spool.released(child.report.get("ReleasedBytes", 0))
        if self._spool.needs_tending:
            # A disk that fails may also hang, which must not keep us from watching. Not a daemon: the interpreter's end
            # waits for it, because a thread that wakes up afterwards takes Orthanc down
            threading.Thread(target=self._spool.tend, name="isen-tend").start()
        if time.monotonic() >= self._next_metrics:
            self._next_metrics = time.monotonic() + _METRICS_INTERVAL
            self._status.publish_metrics()

    def _on_death(self, child: Child) -> None:
        if child.spec.name == TRANSFER:
            self._spool.recount()


def _without_credentials(environment: dict[str, str]) -> dict[str, str]:
    """The object store's are for the transfer process only."""
    return {name: value for name, value in environment.items() if not name.startswith("AWS_")}


def _kept(callback: Callable[..., Any]) -> Callable[..., Any]:
    """Keep a callback alive: at Orthanc's end the Python plugin drops its own reference without holding the GIL.

    Were that the last one, the object would be freed there, which crashes Python 3.12 and later.
    """
    _callbacks.append(callback)
    return callback
