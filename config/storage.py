"""`Isen.Storage`, or the native plugin's `AwsS3Storage` in its place.

Both sections have the same options. What only the native plugin has is refused when Isen cannot do what it promises
(a second storage), and ignored with a warning when it only tunes the native plugin's own machinery.
The native plugin's timeouts are not taken over as defaults: its RequestTimeout limits a whole request (20 minutes),
Isen's the silence of the server.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

from config.encryption import read_encryption
from config.options import MEGABYTE
from config.problems import Findings, suggestion
from config.section import Section, own_options, read, refuse_unknown
from config.settings import Durability, HybridMode, ServerSideEncryption, StorageSettings

NATIVE_LIBRARY: Final = "OrthancAwsS3Storage"
_SMALLEST_PART: Final = 5 * MEGABYTE  # S3: every part of a multipart upload but the last

_IGNORED: Final = {  # options of the native plugin that tune what Isen does not have
    "ConnectionTimeout": "the native plugin ignores it too; ConnectTimeout is the option",
    "EnableAwsSdkLogs": "Isen does not use the AWS C++ SDK",
    "EnableLegacyUnknownFiles": "headers that old versions stored as `.unk` are not looked for",
    "MaxConnections": "ConcurrentUploads and ConcurrentDownloads limit Isen's connections",
    "MaxRetries": "Isen retries uploads until they succeed",
    "TransferBufferSize": "MultipartThresholdMB decides what is uploaded in parts",
    "TransferPoolSize": "ConcurrentUploads limits Isen's connections",
    "UseTransferManager": "MultipartThresholdMB decides what is uploaded in parts",
}


def read_storage(root: Section, isen: Section, base: Path | None, findings: Findings) -> StorageSettings | None:
    """The storage settings, or None after at least one complaint.

    Args:
        root: Orthanc's whole configuration.
        isen: its section `Isen`.
        base: the folder that relative paths of Orthanc's options are relative to, if known.
        findings: takes complaints and warnings.
    """
    section, native = _section(root, isen, findings)
    if section is None:
        return None
    options = dict(section.options)
    _sort_out_native_options(section, options, findings)
    _blank_keys(section, options, findings)
    derived: dict[str, tuple[str, Any]] = read_encryption(section, options, root, findings)
    if native:
        _native_defaults(root, options, derived, base, findings)
    _name_hybrid_mode(section, options, findings)
    if options.get("HybridMode") in ("WriteToFileSystem", "WriteToObjectStorage"):
        derived["StorageDirectory"] = ("StorageDirectory", _hybrid_directory(root, base, findings))
    if index := _index_directory(root, base):
        derived["IndexDirectory"] = ("IndexDirectory", index)
    if authorities := orthanc_file("HttpsCACertificates", root, base, findings):
        derived["CaCertificates"] = ("HttpsCACertificates", authorities)
    _know(section, options, native, findings)
    settings = read(StorageSettings, Section(section.path, options), root, findings, derived)
    if settings:
        _check(settings, section, findings)
    return settings


def _section(root: Section, isen: Section, findings: Findings) -> tuple[Section | None, bool]:
    loaded = _native_library(root)
    if loaded:
        findings.refuse("Plugins", f"{loaded} wants the storage area too; take the native S3 plugin out of Plugins")
    if "Storage" in isen.options:
        if "AwsS3Storage" in root.options:
            findings.warn("AwsS3Storage", "is ignored, because Isen.Storage is present")
        return isen.inner("Storage", findings), False
    if "AwsS3Storage" in root.options:
        return root.inner("AwsS3Storage", findings), True
    findings.refuse("Isen.Storage", "is missing; name the bucket and the folders (see config/orthanc.json)")
    return None, False


def _native_library(root: Section) -> str | None:
    """The path in `Plugins` that loads the native plugin, if any; a folder there loads what is in it."""
    plugins = root.options.get("Plugins")
    for entry in plugins if isinstance(plugins, list) else []:
        if isinstance(entry, str):
            names = [entry]
            try:
                names += [os.path.join(entry, name) for name in os.listdir(entry)]
            except OSError:
                pass
            for name in names:
                if NATIVE_LIBRARY in name.rpartition("/")[2]:
                    return name
    return None


def _sort_out_native_options(section: Section, options: dict[str, Any], findings: Findings) -> None:
    for name in list(options):
        if name in _IGNORED:
            findings.warn(section.at(name), f"is ignored: {_IGNORED[name]}")
            del options[name]


def _name_hybrid_mode(section: Section, options: dict[str, Any], findings: Findings) -> None:
    """`MigrationFromFileSystemEnabled: true` is the native plugin's old name of `WriteToObjectStorage`."""
    old = "MigrationFromFileSystemEnabled"
    if old not in options:
        return
    value = options.pop(old)
    if not isinstance(value, bool):
        findings.refuse(section.at(old), "must be true or false, without quotes")
    elif value and "HybridMode" in options:
        findings.refuse(section.at(old), "is the old name of HybridMode; write only one of them")
    elif value:
        options["HybridMode"] = "WriteToObjectStorage"


def _hybrid_directory(root: Section, base: Path | None, findings: Findings) -> str | None:
    """Orthanc's `StorageDirectory`, for attachments that are there still or go there."""
    if root.options.get("SyncStorageArea") is False:
        findings.warn("SyncStorageArea", "is false, but what Isen stores is on stable storage all the same")
    if root.options.get("StorageDirectory") == "":
        findings.refuse("StorageDirectory", "is empty, but HybridMode reads attachments there; name the folder")
    directory = orthanc_path("StorageDirectory", root, base, findings, default="OrthancStorage")
    return str(directory) if directory else None


def _index_directory(root: Section, base: Path | None) -> str | None:
    """Where Orthanc keeps its own index; what is wrong with these options is for Orthanc to say."""
    named = [root.options.get(option) for option in ("IndexDirectory", "StorageDirectory")]
    folder = Path(next((name for name in named if isinstance(name, str) and name), "OrthancStorage"))
    if folder.is_absolute():
        return str(folder)
    return str(base / folder) if base else None


def _blank_keys(section: Section, options: dict[str, Any], findings: Findings) -> None:
    """Both keys or neither; an empty key counts as none, which is what an unset environment variable leaves."""
    keys = ("AccessKey", "SecretKey")
    written = [name for name in keys if name in options]
    for name in written:
        if options[name] == "":
            del options[name]
    given = [name for name in keys if name in options]
    if len(given) == 1:
        other = keys[1 - keys.index(given[0])]
        findings.refuse(section.at(other), f"is missing or empty, but {given[0]} is there; give both keys or neither")
    elif written and not given:
        findings.warn(section.at(written[0]), "is empty: credentials come from boto3's default chain")


def _native_defaults(
    root: Section, options: dict[str, Any], derived: dict[str, tuple[str, Any]], base: Path | None, findings: Findings
) -> None:
    """What the native plugin's section cannot say: folders below Orthanc's own; HTTPS unless the endpoint says HTTP."""
    endpoint = options.get("Endpoint")
    if isinstance(endpoint, str) and endpoint and "://" not in endpoint:
        options["Endpoint"] = f"https://{endpoint}"
    missing = [
        (alias, name)
        for alias, name in (("SpoolDirectory", "spool"), ("CacheDirectory", "cache"))
        if alias not in options
    ]
    if missing:
        storage = orthanc_path("StorageDirectory", root, base, findings, default="OrthancStorage")
        for alias, name in missing if storage else ():
            derived[alias] = ("StorageDirectory", f"{storage}/isen/{name}")
            findings.warn(f"AwsS3Storage.{alias}", f"is not set: {storage}/isen/{name} is used")
        if not storage:
            derived |= {alias: ("StorageDirectory", f"/{name}") for alias, name in missing}  # complained already


def _know(section: Section, options: dict[str, Any], native: bool, findings: Findings) -> None:  # noqa: FBT001 - private
    known = set(own_options(StorageSettings))
    if not native:
        refuse_unknown(Section(section.path, options), known, findings)
        return
    for name in set(options) - known:  # the native plugin ignores what it does not know, so its section may hold more
        findings.warn(section.at(name), f"is ignored: not an option of Isen.{suggestion(name, known)}")


def _check(settings: StorageSettings, section: Section, findings: Findings) -> None:
    """Rules between several options, or stricter than a test needs."""
    if (settings.hybrid_mode, settings.durability) == (HybridMode.WRITE_TO_FILE_SYSTEM, Durability.OBJECT_STORE):
        findings.refuse(
            section.at("Durability"),
            '"ObjectStore" waits for the object store, where WriteToFileSystem puts nothing; leave one of them out',
        )
    if settings.hybrid_mode is HybridMode.WRITE_TO_FILE_SYSTEM and settings.encryption is not None:
        findings.warn(
            section.at("Encryption"), "does not encrypt what WriteToFileSystem stores: Orthanc alone reads it"
        )
    if settings.multipart_threshold < _SMALLEST_PART:
        findings.refuse(section.at("MultipartThresholdMB"), "must be at least 5, the smallest part S3 accepts")
    if settings.access_key is not None and not settings.access_key.isprintable():
        findings.refuse(section.at("AccessKey"), "must not hold control characters")
    if settings.server_side_encryption is not ServerSideEncryption.KMS:
        for alias, given in (
            ("SseKmsKeyId", settings.sse_kms_key_id),
            ("BucketKeyEnabled", settings.bucket_key_enabled),
        ):
            if given:
                findings.refuse(section.at(alias), 'is for encryption by KMS: set ServerSideEncryption to "aws:kms"')
    spool, cache = (Path(os.path.realpath(folder)) for folder in (settings.spool_directory, settings.cache_directory))
    if spool == cache:
        findings.refuse(section.at("CacheDirectory"), "must not be SpoolDirectory; give the cache a folder of its own")
    elif spool in cache.parents or cache in spool.parents:
        findings.refuse(
            section.at("CacheDirectory"), "and SpoolDirectory must not lie within each other; put them side by side"
        )


def orthanc_path(option: str, root: Section, base: Path | None, findings: Findings, default: str = "") -> Path | None:
    """The path in one of Orthanc's own options; None if it is empty, or cannot be made absolute (after a complaint)."""
    value = root.get(option, str, default, findings)
    if not value:
        return None
    path = Path(value)
    if not path.is_absolute():
        if base is None:
            findings.refuse(
                root.at(option), "is a relative path; write the absolute one, so that every process finds it"
            )
            return None
        path = base / path
    return path


def orthanc_file(option: str, root: Section, base: Path | None, findings: Findings) -> str | None:
    """Like `orthanc_path`, for a file that must exist and be readable."""
    path = orthanc_path(option, root, base, findings)
    if path is None:
        return None
    if not path.is_file():
        findings.refuse(root.at(option), f"there is no file {path}")
    elif not os.access(path, os.R_OK):
        findings.refuse(root.at(option), f"{path} cannot be read by this user; change its owner or mode")
    return str(path)
