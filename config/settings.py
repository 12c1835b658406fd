"""Typed, frozen settings: what Orthanc's configuration means once every mistake in it has been reported.

`config.loader` makes them from Orthanc's JSON; `python -m config` prints them as JSON for the plugin, which hands that
JSON to every process it starts, and `Settings.model_validate_json` reads it back there. Names in JSON are those of the
settings here (`AeTitle` is `DicomAet`); sizes are bytes and times are seconds once loaded.

A new setting is one line: the loader, its messages and `isen check` follow from it (`config.options` says how a
setting names its source), and a test asks for its line in `config/orthanc.json`.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_serializer
from pydantic.alias_generators import to_pascal

from config.options import (
    MEGABYTE,
    AbsolutePath,
    AeTitle,
    BucketName,
    Derived,
    Endpoint,
    From,
    Hl7CharacterSet,
    Host,
    HttpUrl,
    KeyId,
    KeySource,
    KmsKey,
    Megabytes,
    MegabytesOrNone,
    Network,
    NotNegative,
    PastMoment,
    Pause,
    Port,
    Positive,
    Region,
    RootPath,
    Seconds,
    StorageClass,
    Tags,
    Uid,
    UidPattern,
)

__all__ = [
    "MEGABYTE",
    "DicomSettings",
    "Durability",
    "EncryptionSettings",
    "FrontEndSettings",
    "Hl7Settings",
    "HybridMode",
    "Modality",
    "NativeEncryptionSettings",
    "OrthancServer",
    "OrthancSettings",
    "ScpSettings",
    "ServerSideEncryption",
    "Settings",
    "StorageSettings",
    "StorageStructure",
    "TlsSettings",
    "WorklistSettings",
]


class Frozen(BaseModel):
    """A value that does not change and refuses names it does not know."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=to_pascal,
        populate_by_name=True,
        hide_input_in_errors=True,  # the input may hold a secret
    )


class Acknowledge(StrEnum):
    """When a C-STORE is answered: once Orthanc has the instance, or once it is durable in the journal before it."""

    STORED = "Stored"
    RECEIVED = "Received"


class Durability(StrEnum):
    """What an acknowledged attachment has survived: the local disk's fsync, or the object store's answer."""

    SPOOL = "Spool"
    OBJECT_STORE = "ObjectStore"


class StorageStructure(StrEnum):
    """How the native plugin spells object keys; fixed once objects exist."""

    FLAT = "flat"
    LEGACY = "legacy"


class ServerSideEncryption(StrEnum):
    """Whose key the server encrypts objects with: the bucket's default, S3's own, or one of KMS."""

    NONE = ""
    S3 = "AES256"
    KMS = "aws:kms"


class HybridMode(StrEnum):
    """Whether attachments in the folder of Orthanc's own storage area are read too, and where new ones go."""

    DISABLED = "Disabled"
    WRITE_TO_FILE_SYSTEM = "WriteToFileSystem"
    WRITE_TO_OBJECT_STORAGE = "WriteToObjectStorage"


class EncryptionSettings(Frozen):
    """`Isen.Storage.Encryption`: on this machine, before anything goes to S3. Where the keys are, not the keys."""

    current_key: KeyId  # of `keys`; what new objects are encrypted with
    keys: dict[KeyId, KeySource]  # id: path of a file, or env:NAME; all of them decrypt
    accept_unencrypted_before: PastMoment = ""  # unencrypted objects last changed before this are read; empty = none


class NativeEncryptionSettings(Frozen):
    """The native plugin's `StorageEncryption`: its objects are read, and none is written in its format."""

    keys: dict[str, KeySource]  # id: path; MasterKey and PreviousMasterKeys


class StorageSettings(Frozen):
    """`Isen.Storage`: the bucket and the local folders in front of it."""

    bucket_name: BucketName
    region: Region
    endpoint: Endpoint = ""  # empty = AWS
    access_key: str | None = None  # both keys or neither; neither = boto3's default chain
    secret_key: SecretStr | None = None
    virtual_addressing: bool = True  # false = path style
    root_path: RootPath = ""  # prefix of every key, without leading or trailing slash
    storage_structure: StorageStructure = StorageStructure.FLAT
    ca_certificates: Annotated[Path | None, Derived()] = None  # Orthanc's HttpsCACertificates
    storage_class: StorageClass = ""  # x-amz-storage-class; empty = the server's default
    tags: Tags = {}  # x-amz-tagging, the same for every object
    server_side_encryption: ServerSideEncryption = ServerSideEncryption.NONE
    sse_kms_key_id: KmsKey = ""  # with aws:kms; empty = the account's default key
    bucket_key_enabled: bool = False  # with aws:kms: fewer requests to KMS
    hybrid_mode: HybridMode = HybridMode.DISABLED
    storage_directory: Annotated[Path | None, Derived()] = None  # Orthanc's; None unless HybridMode is on
    index_directory: Annotated[Path | None, Derived()] = None  # Orthanc's; None if it is not known
    encryption: Annotated[EncryptionSettings | None, Derived()] = None  # on the client's side
    storage_encryption: Annotated[NativeEncryptionSettings | None, Derived()] = None  # objects of the native plugin
    create_bucket: bool = False
    connect_timeout: Seconds = 5.0  # seconds; a dead endpoint must be noticed before a sender gives up
    request_timeout: Seconds = 15.0  # seconds without a byte from the server
    durability: Durability = Durability.SPOOL
    object_store_timeout: Seconds = 20.0  # seconds a store waits for S3 with Durability ObjectStore
    spool_directory: AbsolutePath
    maximum_spool_size: Megabytes = 10240 * MEGABYTE  # bytes, from MaximumSpoolSizeMB
    allow_volatile_spool: bool = False  # accept a spool on tmpfs or overlay
    cache_directory: AbsolutePath
    maximum_cache_size: MegabytesOrNone = 10240 * MEGABYTE  # bytes, from MaximumCacheSizeMB; 0 = keep nothing
    # seconds between Orthanc's removal and the object's; the object tells what was removed, should a power cut take the
    # removal out of Orthanc's index, of which SQLite loses ten seconds
    removal_grace_period: Pause = 60.0
    missing_object_patience: Pause = (
        3.0  # seconds a missing object is asked for again: another node may be uploading it
    )
    concurrent_uploads: Annotated[Positive, Field(le=256)] = 16
    concurrent_downloads: Annotated[Positive, Field(le=256)] = 32
    multipart_threshold: Megabytes = 64 * MEGABYTE  # bytes; larger attachments are uploaded in parts

    @field_serializer("secret_key", when_used="json")
    def _reveal(self, secret: SecretStr | None) -> str | None:
        """The JSON form travels over a pipe to the transfer process only; `repr` and logs keep the mask."""
        return secret.get_secret_value() if secret else None


class Modality(Frozen):
    """One entry of `DicomModalities`."""

    name: str  # the symbolic name, the key in DicomModalities
    ae_title: AeTitle
    host: Host
    port: Port
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
    local_ae_title: AeTitle | None = None  # LocalAet: who we say we are towards this modality
    timeout: NotNegative = 0  # seconds; 0 = DicomScuTimeout


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

    ae_title: Annotated[AeTitle, From("DicomAet")] = "ORTHANC"
    port: Annotated[int, Field(ge=0, le=65535), From("DicomPort")] = 4242  # 0 = any free one, in tests only
    check_called_aet: Annotated[bool, From("DicomCheckCalledAet")] = False
    strict_aet_comparison: Annotated[bool, From("StrictAetComparison")] = False
    check_modality_host: Annotated[bool, From("DicomCheckModalityHost")] = False
    always_allow_echo: Annotated[bool, From("DicomAlwaysAllowEcho")] = True
    always_allow_store: Annotated[bool, From("DicomAlwaysAllowStore")] = True
    always_allow_find: Annotated[bool, From("DicomAlwaysAllowFind")] = False
    always_allow_find_worklist: Annotated[bool, From("DicomAlwaysAllowFindWorklist")] = False
    always_allow_get: Annotated[bool, From("DicomAlwaysAllowGet")] = False
    always_allow_move: Annotated[bool, From("DicomAlwaysAllowMove")] = False
    modalities: Annotated[tuple[Modality, ...], Derived()] = ()  # DicomModalities
    modalities_in_database: Annotated[bool, From("DicomModalitiesInDatabase")] = False
    scp_timeout: Annotated[NotNegative, From("DicomScpTimeout")] = 30  # seconds idle; 0 = none
    scu_timeout: Annotated[NotNegative, From("DicomScuTimeout")] = 10  # seconds; 0 = none
    # bytes, both directions; Orthanc's own default is 16384
    maximum_pdu_length: Annotated[int, Field(ge=4096, le=131072), From("MaximumPduLength")] = 131072
    limit_find_results: Annotated[NotNegative, From("LimitFindResults")] = (
        0  # patient, study and series level; 0 = none
    )
    limit_find_instances: Annotated[NotNegative, From("LimitFindInstances")] = 0
    case_sensitive_pn: Annotated[bool, From("CaseSensitivePN")] = False
    default_encoding: Annotated[str, From("DefaultEncoding")] = "Latin1"
    # UIDs with * and ?; a …TransferSyntaxAccepted group that is true adds its own
    accepted_transfer_syntaxes: Annotated[tuple[UidPattern, ...], Derived()] = ("1.2.840.10008.1.*",)
    rejected_transfer_syntaxes: Annotated[tuple[Uid, ...], Derived()] = ()  # of the groups that are false
    unknown_sop_class_accepted: Annotated[bool, From("UnknownSopClassAccepted")] = False
    accepted_sop_classes: Annotated[
        tuple[UidPattern, ...], From("AcceptedSopClasses")
    ] = ()  # empty = every storage class
    rejected_sop_classes: Annotated[tuple[UidPattern, ...], From("RejectedSopClasses")] = ()
    transcode_dicom_protocol: Annotated[bool, From("TranscodeDicomProtocol")] = True
    synchronous_c_move: Annotated[bool, From("SynchronousCMove")] = True
    scu_preferred_transfer_syntax: Annotated[Uid, From("DicomScuPreferredTransferSyntax")] = "1.2.840.10008.1.2.1"
    tls: Annotated[TlsSettings | None, Derived()] = None  # the port's TLS, when DicomTlsEnabled
    scu_tls: Annotated[TlsSettings | None, Derived()] = None  # what we show to modalities with UseDicomTls
    processes: Annotated[Positive, Field(le=64)] = 2  # Isen.Dicom from here on; default: one per CPU, 2 to 8
    maximum_associations: Annotated[Positive, Field(le=10000)] = 200  # over all workers
    maximum_associations_per_address: NotNegative = 0  # over all workers; 0 = none: gateways hide whole departments
    maximum_associations_per_ae_title: NotNegative = 0  # of one calling AE title, over all workers; 0 = none
    maximum_connections: Positive = 256  # per worker, not associated yet; past it the oldest one is closed
    associate_timeout: Seconds = 10.0  # from the connection to the whole A-ASSOCIATE-RQ (ARTIM, PS3.8 9.1.5)
    tls_handshake_timeout: Seconds = 5.0
    pdu_timeout: Seconds = 10.0  # without a byte in the middle of a PDU
    minimum_receive_rate: NotNegative = 1024  # bytes per second, over a whole message; 0 = none
    slow_message_grace: Pause = 30.0  # seconds before the rate counts
    maximum_associate_length: Annotated[int, Field(ge=4096)] = 262144  # bytes of an A-ASSOCIATE-RQ; 128 contexts fit
    maximum_user_items: Positive = 512  # of the user information: roles and extended negotiation of 128 contexts
    maximum_command_length: Annotated[int, Field(ge=1024)] = 65536  # bytes of a command set
    maximum_identifier_length: Positive = 4 * MEGABYTE  # bytes of any data set that is decoded, all but C-STORE's
    maximum_data_set_length: Positive = 4096 * MEGABYTE  # bytes of a C-STORE data set
    maximum_inflated_length: Positive = 16 * MEGABYTE  # bytes of a deflated identifier
    maximum_sequence_depth: Annotated[int, Field(ge=1, le=100)] = 64  # levels; what Orthanc and DCMTK chose
    data_set_memory: NotNegative = 4 * MEGABYTE  # bytes; a longer data set goes to a file while it arrives
    total_data_set_memory: NotNegative = 128 * MEGABYTE  # bytes, per worker; when used up, files
    receive_directory: AbsolutePath | None = None  # of those files; default: `receiving` in Storage's SpoolDirectory
    acknowledge: Acknowledge = Acknowledge.STORED
    maximum_received_size: Positive = 1024 * MEGABYTE  # bytes acknowledged that Orthanc does not have, over all workers
    maximum_worker_memory: NotNegative = 1024 * MEGABYTE  # bytes resident; past it a worker is replaced; 0 = never
    commitment_timeout: Seconds = 86400.0  # that an instance may take to reach S3 before commitment is refused
    commitment_report_days: Positive = 7  # that the report of a storage commitment is tried after that
    performed_procedure_step_days: Positive = 90  # that a performed procedure step is kept after its last change
    forward_performed_procedure_steps: str = ""  # to this entry of DicomModalities; empty = to nobody
    drain_timeout: Seconds = 20.0  # for the operations under way when a worker is to end
    strict_hierarchy: bool = False  # PS3.4 C.4.1.2: refuse relational requests of peers that have not negotiated them
    unknown_values_match: bool = False  # PS3.4 C.2.2.1.2: an empty stored value matches every key; Orthanc's match none
    user_identity_required: bool = False  # PS3.7 D.3.3.7; refuses peers that send none or an unknown one
    user_identities: dict[str, str] = Field(default={}, repr=False)  # user name: passcode, empty = user name alone


class WorklistSettings(Frozen):
    """`Isen.Worklists`: a folder of `*.wl` files, as Orthanc's sample plugin reads it, and a list with a REST API."""

    directory: AbsolutePath | None = None  # Directory or Database
    managed_directory: AbsolutePath | None = None  # of the managed list's database; on a local disk
    default_station_ae_title: AeTitle = "UNKNOWN"  # of entries that come without one: an answer must have it
    retention_days: NotNegative = 0  # days after its start date that an entry of the managed list is kept; 0 = for ever
    finished_retention_hours: NotNegative = 168  # that an ended or cancelled one is kept; 0 = RetentionDays says
    # the next four are those of Orthanc's worklist plugin
    set_study_instance_uid_if_missing: bool = True  # of entries of the managed list
    delete_worklists_on_stable_study: bool = False  # files too
    delete_worklists_delay: NotNegative = 0  # hours after it was made that a managed entry is kept; 0 = for ever
    housekeeping_interval: Seconds = 60.0  # seconds between two looks at what is to be removed
    filter_issuer_aet: bool = False
    limit_answers: NotNegative = 0  # 0 = none


class Hl7Settings(Frozen):
    """`Isen.Hl7`: the listener that turns HL7 orders into entries of the managed worklist."""

    port: Port = 2575  # the one IANA has registered for HL7
    bind_address: Host = "0.0.0.0"  # noqa: S104 - the sender is another machine; AllowedAddresses says which
    allowed_addresses: tuple[Network, ...] = ()  # addresses and networks; empty = every one
    maximum_connections: Positive = 32
    maximum_message_length: Annotated[int, Field(ge=1024, le=64 * MEGABYTE)] = MEGABYTE  # bytes
    message_timeout: Seconds = 30.0  # from a message's first byte to its last
    idle_timeout: Pause = 0.0  # between messages; 0 = none, interface engines keep their connections
    character_set: Hl7CharacterSet = "8859/1"  # of messages with an empty MSH-18; HL7 table 0211
    alternate_protocol_code: bool = True  # the protocol is OBR-4.4 to 4.6 (IHE) if given; false: always 4.1 to 4.3
    station_ae_titles: dict[str, AeTitle] = {}  # modality: station, for orders that name no station
    maximum_rejected_messages: Positive = 1000  # kept for inspection
    tls: Annotated[TlsSettings | None, Derived()] = None  # when TlsEnabled


class OrthancServer(Frozen):
    """One entry of `Isen.FrontEnd.Orthancs`: an Orthanc on another machine."""

    url: HttpUrl
    username: str = ""  # of RegisteredUsers; both or neither
    password: SecretStr | None = None

    @field_serializer("password", when_used="json")
    def _reveal(self, secret: SecretStr | None) -> str | None:
        """The JSON form travels over a pipe to the workers only; `repr` and logs keep the mask."""
        return secret.get_secret_value() if secret else None


class OrthancSettings(Frozen):
    """How a worker reaches Orthanc's REST API: of the same machine, or of those that a front end names."""

    url: Annotated[str, Derived()] = "http://127.0.0.1:8042"
    servers: Annotated[tuple[OrthancServer, ...], Derived()] = ()  # of a front end, in place of url
    # trusted for https; a self-signed SslCertificate is its own authority
    ca_certificates: Annotated[Path | None, Derived()] = None
    http_threads_count: Annotated[Positive, From("HttpThreadsCount")] = 50  # each open upload holds one
    overwrite_instances: Annotated[bool, Derived()] = False  # OverwriteInstances other than Never
    dictionary: Annotated[dict[str, tuple[str | int, ...]], From("Dictionary")] = {}  # private tags


class FrontEndSettings(Frozen):
    """`Isen.FrontEnd`: DICOM workers on a machine without Orthanc (`python -m scp`)."""

    orthancs: Annotated[tuple[OrthancServer, ...], Field(min_length=1)]  # over one index and one bucket
    directory: AbsolutePath  # what must survive a restart: commitments, performed procedure steps, origins
    health_port: Annotated[int, Field(ge=0, le=65535)] = 8080  # 0 = none
    health_bind_address: Host = "127.0.0.1"


class ScpSettings(Frozen):
    """What the processes of `scp` need; they never see the object store's settings, nor its keys."""

    directory: Path  # theirs, for what must survive a restart; beside Orthanc that is SpoolDirectory
    orthanc: OrthancSettings = OrthancSettings()
    dicom: DicomSettings | None = DicomSettings()
    worklists: WorklistSettings = WorklistSettings()
    hl7: Hl7Settings | None = None
    storage_structure: StorageStructure = StorageStructure.FLAT  # how files of attachments are named


class Settings(Frozen):
    """Everything every process needs; each reads its own part."""

    python: Path  # interpreter of the other processes
    orthanc: OrthancSettings = OrthancSettings()
    storage: StorageSettings
    dicom: DicomSettings | None = DicomSettings()  # None: no SCP here ("Isen.Dicom.Enabled": false)
    worklists: WorklistSettings = WorklistSettings()
    hl7: Hl7Settings | None = None  # None: no listener
    front_end_users: tuple[str, ...] = ()  # of RegisteredUsers: front ends, whose word on an instance's origin counts
