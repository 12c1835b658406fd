"""Typed, frozen settings: what Orthanc's configuration means once every mistake in it has been reported.

`config.loader` makes them from Orthanc's JSON; `python -m config` prints them as JSON for the plugin, which hands that
JSON to every process it starts, and `Settings.model_validate_json` reads it back there. Names in JSON are Orthanc's
(`AeTitle` is `DicomAet`); sizes are bytes and times are seconds once loaded.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict, SecretStr, field_serializer
from pydantic.alias_generators import to_pascal

MEGABYTE = 1024 * 1024


class Frozen(BaseModel):
    """A value that does not change and refuses names it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_pascal, populate_by_name=True)


class Durability(StrEnum):
    """What an acknowledged attachment has survived: the local disk's fsync, or the object store's answer."""

    SPOOL = "Spool"
    OBJECT_STORE = "ObjectStore"


class StorageStructure(StrEnum):
    """How the native plugin spells object keys; fixed once objects exist."""

    FLAT = "flat"
    LEGACY = "legacy"


class StorageSettings(Frozen):
    """`Isen.Storage`: the bucket and the local folders in front of it."""

    bucket_name: str
    region: str
    endpoint: str = ""  # empty = AWS
    access_key: str | None = None  # both keys or neither; neither = boto3's default chain
    secret_key: SecretStr | None = None
    virtual_addressing: bool = True  # false = path style
    root_path: str = ""  # prefix of every key, without leading or trailing slash
    storage_structure: StorageStructure = StorageStructure.FLAT
    ca_certificates: Path | None = None  # Orthanc's HttpsCACertificates
    create_bucket: bool = False
    connect_timeout: float = 5.0  # seconds; a dead endpoint must be noticed before a sender gives up
    request_timeout: float = 15.0  # seconds without a byte from the server
    durability: Durability = Durability.SPOOL
    object_store_timeout: float = 20.0  # seconds a store waits for S3 with Durability ObjectStore
    spool_directory: Path
    maximum_spool_size: int = 10240 * MEGABYTE  # bytes, from MaximumSpoolSizeMB
    allow_volatile_spool: bool = False  # accept a spool on tmpfs or overlay
    cache_directory: Path
    maximum_cache_size: int = 10240 * MEGABYTE  # bytes, from MaximumCacheSizeMB
    removal_grace_period: float = 10.0  # seconds between Orthanc's removal and the object's
    missing_object_patience: float = 3.0  # seconds a missing object is asked for again: another node may be uploading it
    concurrent_uploads: int = 8
    concurrent_downloads: int = 16
    multipart_threshold: int = 64 * MEGABYTE  # bytes; larger attachments are uploaded in parts

    @field_serializer("secret_key", when_used="json")
    def _reveal(self, secret: SecretStr | None) -> str | None:
        """The JSON form travels over a pipe to the transfer process only; `repr` and logs keep the mask."""
        return secret.get_secret_value() if secret else None


class Modality(Frozen):
    """One entry of `DicomModalities`."""

    name: str  # the symbolic name, the key in DicomModalities
    ae_title: str
    host: str
    port: int
    manufacturer: str = "Generic"
    allow_echo: bool = True
    allow_find: bool = True
    allow_find_worklist: bool = True
    allow_get: bool = True
    allow_move: bool = True
    allow_store: bool = True
    allow_n_action: bool = True
    allow_event_report: bool = True
    allow_transcoding: bool = True
    use_dicom_tls: bool = False
    local_ae_title: str | None = None  # LocalAet: who we say we are towards this modality
    timeout: int = 0  # seconds; 0 = DicomScuTimeout


class TlsSettings(Frozen):
    """Orthanc's `DicomTls*` options."""

    certificate: Path
    private_key: Path
    trusted_certificates: Path | None = None
    remote_certificate_required: bool = True
    minimum_protocol_version: int = 0  # Orthanc's numbering: 0 = BCP 195, 4 = TLS 1.2, 5 = TLS 1.3
    ciphers_accepted: tuple[str, ...] = ()


class DicomSettings(Frozen):
    """Orthanc's `Dicom*` options, which Isen's SCP honours, and `Isen.Dicom`."""

    ae_title: str = "ORTHANC"  # DicomAet
    port: int = 4242  # DicomPort
    check_called_aet: bool = False
    strict_aet_comparison: bool = False
    check_modality_host: bool = False
    always_allow_echo: bool = True
    always_allow_store: bool = True
    always_allow_find: bool = False
    always_allow_find_worklist: bool = False
    always_allow_get: bool = False
    always_allow_move: bool = False
    modalities: tuple[Modality, ...] = ()
    modalities_in_database: bool = False
    scp_timeout: int = 30  # seconds idle; 0 = none
    scu_timeout: int = 10  # seconds; 0 = none
    maximum_pdu_length: int = 131072  # bytes, both directions; Orthanc's MaximumPduLength when set
    limit_find_results: int = 0  # patient, study and series level; 0 = none
    limit_find_instances: int = 0
    case_sensitive_pn: bool = False
    default_encoding: str = "Latin1"
    accepted_transfer_syntaxes: tuple[str, ...] = ("1.2.840.10008.1.*",)  # UIDs with * and ?
    rejected_transfer_syntaxes: tuple[str, ...] = ()  # from the …TransferSyntaxAccepted: false groups
    unknown_sop_class_accepted: bool = False
    accepted_sop_classes: tuple[str, ...] = ()  # empty = every storage SOP class
    rejected_sop_classes: tuple[str, ...] = ()
    transcode_dicom_protocol: bool = True
    synchronous_c_move: bool = True
    scu_preferred_transfer_syntax: str = "1.2.840.10008.1.2.1"
    tls: TlsSettings | None = None  # the port's TLS, when DicomTlsEnabled
    scu_tls: TlsSettings | None = None  # what we show to modalities with UseDicomTls
    processes: int = 2  # Isen.Dicom from here on; default: one per CPU, 2 to 8
    maximum_associations: int = 200  # over all workers


class WorklistSettings(Frozen):
    """`Worklists`: a folder of `*.wl` files, as Orthanc's sample plugin reads it."""

    directory: Path | None = None  # Directory or Database
    filter_issuer_aet: bool = False
    limit_answers: int = 0  # 0 = none


class OrthancSettings(Frozen):
    """How a worker reaches Orthanc's REST API from the same machine."""

    url: str = "http://127.0.0.1:8042"
    ca_certificates: Path | None = None  # trusted for https; a self-signed SslCertificate is its own authority
    http_threads_count: int = 50  # HttpThreadsCount: each open upload holds one
    overwrite_instances: bool = False
    dictionary: dict[str, tuple[str | int, ...]] = {}  # Orthanc's Dictionary of private tags


class Settings(Frozen):
    """Everything every process needs; each reads its own part."""

    python: Path  # interpreter of the other processes
    orthanc: OrthancSettings = OrthancSettings()
    storage: StorageSettings
    dicom: DicomSettings | None = DicomSettings()  # None: no SCP here ("Isen.Dicom.Enabled": false)
    worklists: WorklistSettings = WorklistSettings()
