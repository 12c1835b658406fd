"""`Isen.Storage` and the native plugin's section in its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from config.loader import Capabilities
from config.settings import MEGABYTE, Durability, ServerSideEncryption, StorageStructure
from tests.unit.config.samples import GOOD, SECRET, Removed, accepted, changed, only_problem, problems

NATIVE: dict[str, Any] = {
    "DicomServerEnabled": False,
    "StorageDirectory": "/var/lib/orthanc",
    "AwsS3Storage": {"BucketName": "dicom", "Region": "eu-west-1"},
}

GOOD_WITH_FOLDER = changed("StorageDirectory", "/var/lib/orthanc")


def storage(option: str, value: Any) -> dict[str, Any]:
    return changed(f"Isen.Storage.{option}", value)


def native(option: str, value: Any) -> dict[str, Any]:
    return changed(f"AwsS3Storage.{option}", value, NATIVE)


@pytest.mark.parametrize(
    ("option", "value", "sentence"),
    [
        ("BucketName", Removed, "is missing; name the bucket"),
        ("BucketName", "", "3 to 63"),
        ("BucketName", "a/b", "3 to 63"),
        ("BucketName", 7, "must be a string"),
        ("Region", Removed, 'servers other than AWS take "us-east-1"'),
        ("Region", "", "is empty"),
        ("Region", "eu west", "must be a region"),
        ("Endpoint", "127.0.0.1:9000", 'must begin with "http://"'),
        ("Endpoint", "minio", 'must begin with "http://"'),
        ("Endpoint", "ftp://minio", 'must begin with "http://"'),
        ("Endpoint", "http://minio/dicom", "must end after the port"),
        ("Endpoint", "http://minio?x=1", "must end after the port"),
        ("Endpoint", "http://user:pass@minio", "must not hold a user name"),
        ("Endpoint", "http://minio:0", "usable port"),
        ("Endpoint", "http://minio:70000", "is not an address"),
        ("Endpoint", "http://", "must name a host"),
        ("RootPath", "/images", "must not begin with `/`"),
        ("RootPath", "a//b", "single slashes"),
        ("RootPath", "a/../b", "single slashes"),
        ("RootPath", "a\nb", "control characters"),
        ("StorageStructure", "tree", "must be 'flat' or 'legacy'"),
        ("CreateBucket", "true", "must be true or false"),
        ("VirtualAddressing", 0, "must be true or false"),
        ("ConnectTimeout", 0, "must be greater than 0"),
        ("ConnectTimeout", -1, "must be greater than 0"),
        ("ConnectTimeout", "5", "must be a number"),
        ("RequestTimeout", 10**9, "must be at most 86400"),
        ("Durability", "Disk", "must be 'Spool' or 'ObjectStore'"),
        ("Durability", True, "must be 'Spool' or 'ObjectStore'"),
        ("ObjectStoreTimeout", 0, "must be greater than 0"),
        ("SpoolDirectory", Removed, "is missing; name a folder"),
        ("SpoolDirectory", "spool", "must be an absolute path"),
        ("SpoolDirectory", ["/spool"], "must be a string"),
        ("CacheDirectory", Removed, "is missing; name a folder"),
        ("CacheDirectory", "./cache", "must be an absolute path"),
        ("CacheDirectory", "/var/lib/isen/spool", "must not be SpoolDirectory"),
        ("CacheDirectory", "/var/lib/isen/other/../spool/", "must not be SpoolDirectory"),
        ("CacheDirectory", "/var/lib/isen/spool/cache", "must not lie within each other"),
        ("CacheDirectory", "/var/lib/isen", "must not lie within each other"),
        ("MaximumSpoolSizeMB", -1, "must be at least 1"),
        ("MaximumSpoolSizeMB", 0, "must be at least 1"),
        ("MaximumSpoolSizeMB", 1.5, "must be a whole number"),
        ("MaximumSpoolSizeMB", "1024", "must be a whole number"),
        ("MaximumSpoolSizeMB", True, "must be a whole number"),
        ("MaximumSpoolSizeMB", None, "must be a whole number"),
        ("MaximumSpoolSizeMB", 10**13, "must be at most"),
        ("MaximumCacheSizeMB", -1, "must be at least 0"),
        ("RemovalGracePeriod", -0.5, "must be at least 0"),
        ("MissingObjectPatience", -1, "must be at least 0"),
        ("ConcurrentUploads", 0, "must be at least 1"),
        ("ConcurrentUploads", 257, "must be at most 256"),
        ("ConcurrentDownloads", 0, "must be at least 1"),
        ("MultipartThresholdMB", 4, "must be at least 5"),
        ("SecretKey", 5, "must be a string"),
        ("SecretKey", Removed, "is missing or empty, but AccessKey is there"),
        ("SecretKey", "", "is missing or empty, but AccessKey is there"),
        ("AccessKey", Removed, "is missing or empty, but SecretKey is there"),
        ("AccessKey", "", "is missing or empty, but SecretKey is there"),
        ("AccessKey", "a\nb", "control characters"),
        ("MaximumSpoolSize", 5, "is not an option of Isen. Did you mean MaximumSpoolSizeMB?"),
        ("Bucketname", "x", "is not an option of Isen. Did you mean BucketName?"),
        ("CaCertificates", "/x", "is not an option of Isen."),
        ("Xyzzy", 1, "is not an option of Isen."),
        ("StorageClass", "DEEP_ARCHIVE", "must be restored"),
        ("StorageClass", "GLACIER", "must be restored"),
        ("StorageClass", "a b", "must be a storage class"),
        ("StorageClass", 1, "must be a string"),
        ("Tags", ["a"], "must be an object"),
        ("Tags", {str(n): "" for n in range(11)}, "more than 10"),
        ("Tags", {"": "x"}, "1 to 128"),
        ("Tags", {"k" * 129: "x"}, "1 to 128"),
        ("Tags", {"aws:k": "x"}, "aws:"),
        ("Tags", {"k": "v" * 257}, "at most 256"),
        ("Tags", {"k": "a&b"}, "letters, digits"),
        ("ServerSideEncryption", "AES", "must be '', 'AES256' or 'aws:kms'"),
        ("BucketKeyEnabled", True, "is for encryption by KMS"),
        ("SseKmsKeyId", "key", "is for encryption by KMS"),
        ("HybridMode", "WriteToBoth", "must be 'Disabled', 'WriteToFileSystem' or 'WriteToObjectStorage'"),
        ("HybridMode", True, "must be 'Disabled'"),
        ("MigrationFromFileSystemEnabled", "true", "must be true or false"),
    ],
)
def test_an_impossible_storage_option_is_refused_by_its_path(option: str, value: Any, sentence: str) -> None:
    path, message = only_problem(storage(option, value))
    assert path == f"Isen.Storage.{option}"
    assert sentence in message


def test_sizes_become_bytes_and_names_become_settings() -> None:
    settings = accepted(
        GOOD | {"Isen": {"Storage": GOOD["Isen"]["Storage"] | {"MaximumSpoolSizeMB": 3}}}
    ).settings.storage
    assert settings.maximum_spool_size == 3 * MEGABYTE
    assert settings.maximum_cache_size == 10240 * MEGABYTE
    assert settings.spool_directory == Path("/var/lib/isen/spool")
    assert settings.durability is Durability.SPOOL
    assert settings.secret_key is not None
    assert settings.secret_key.get_secret_value() == SECRET


@pytest.mark.parametrize(
    ("option", "value", "setting", "meaning"),
    [
        ("Endpoint", "https://s3.example.org/", "endpoint", "https://s3.example.org"),
        ("Endpoint", "http://[::1]:9000", "endpoint", "http://[::1]:9000"),
        ("RootPath", "a/b/", "root_path", "a/b"),
        ("RootPath", "", "root_path", ""),
        ("ConnectTimeout", 2, "connect_timeout", 2.0),
        ("StorageClass", "GLACIER_IR", "storage_class", "GLACIER_IR"),
        ("Tags", {"Abteilung": "Röntgen / Süd", "x": ""}, "tags", {"Abteilung": "Röntgen / Süd", "x": ""}),
        ("ServerSideEncryption", "aws:kms", "server_side_encryption", ServerSideEncryption.KMS),
        ("MaximumCacheSizeMB", 0, "maximum_cache_size", 0),
        ("Durability", "ObjectStore", "durability", Durability.OBJECT_STORE),
        ("StorageStructure", "legacy", "storage_structure", StorageStructure.LEGACY),
        ("RemovalGracePeriod", 0, "removal_grace_period", 0.0),
    ],
)
def test_a_usable_value_is_taken(option: str, value: Any, setting: str, meaning: Any) -> None:
    assert getattr(accepted(storage(option, value)).settings.storage, setting) == meaning


def test_folders_side_by_side_under_a_common_prefix_are_two_folders() -> None:
    accepted(storage("CacheDirectory", "/var/lib/isen/spool-cache"))


def test_a_cache_that_is_the_spool_through_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "spool").mkdir()
    (tmp_path / "cache").symlink_to(tmp_path / "spool")
    configuration = changed(
        "Isen.Storage.CacheDirectory", str(tmp_path / "cache"), storage("SpoolDirectory", str(tmp_path / "spool"))
    )
    assert only_problem(configuration)[0] == "Isen.Storage.CacheDirectory"


def test_without_keys_the_default_chain_is_used() -> None:
    loaded = accepted(changed("Isen.Storage.SecretKey", Removed, storage("AccessKey", Removed)))
    assert loaded.settings.storage.access_key is None
    assert loaded.settings.storage.secret_key is None
    assert not loaded.warnings


@pytest.mark.parametrize("key", ["arn:aws:kms:eu-west-1:111122223333:key/1234", "alias/images", ""])
def test_a_kms_key_is_named_by_arn_alias_or_not_at_all(key: str) -> None:
    configuration = changed("Isen.Storage.SseKmsKeyId", key, storage("ServerSideEncryption", "aws:kms"))
    configuration["Isen"]["Storage"]["BucketKeyEnabled"] = True
    assert accepted(configuration).settings.storage.bucket_key_enabled
    assert only_problem(changed("Isen.Storage.SseKmsKeyId", "a b", configuration))[0] == "Isen.Storage.SseKmsKeyId"


def test_keys_left_empty_by_an_unset_variable_are_no_keys_and_worth_a_warning() -> None:
    loaded = accepted(changed("Isen.Storage.SecretKey", "", storage("AccessKey", "")))
    assert loaded.settings.storage.secret_key is None
    assert any("default chain" in warning for warning in loaded.warnings)


def test_no_storage_at_all_is_refused() -> None:
    assert "Isen.Storage" in problems({"DicomServerEnabled": False})


def test_certificates_of_a_private_authority_are_orthancs(tmp_path: Path) -> None:
    authority = tmp_path / "ca.pem"
    authority.touch()
    assert accepted(changed("HttpsCACertificates", str(authority))).settings.storage.ca_certificates == authority


@pytest.mark.parametrize("value", ["/nowhere/ca.pem", "/etc", "relative.pem"])
def test_certificates_that_cannot_be_read_are_refused(value: str) -> None:
    assert only_problem(changed("HttpsCACertificates", value))[0] == "HttpsCACertificates"


def test_a_relative_path_of_orthanc_is_relative_to_its_configuration(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").touch()
    for path in (tmp_path, tmp_path / "orthanc.json"):
        loaded = accepted(changed("HttpsCACertificates", "ca.pem"), Capabilities(configuration_path=path))
        assert loaded.settings.storage.ca_certificates == tmp_path / "ca.pem"


def test_the_native_section_is_used_with_folders_below_orthancs() -> None:
    loaded = accepted(NATIVE)
    assert loaded.settings.storage.spool_directory == Path("/var/lib/orthanc/isen/spool")
    assert loaded.settings.storage.cache_directory == Path("/var/lib/orthanc/isen/cache")
    assert loaded.settings.storage.virtual_addressing
    assert loaded.settings.storage.storage_structure is StorageStructure.FLAT
    assert any("/var/lib/orthanc/isen/spool" in warning for warning in loaded.warnings)


def test_folders_may_be_named_in_the_native_section() -> None:
    configuration = native("SpoolDirectory", "/spool")
    assert accepted(configuration).settings.storage.spool_directory == Path("/spool")


def test_native_folders_need_an_absolute_storage_directory() -> None:
    assert only_problem(changed("StorageDirectory", "OrthancStorage", NATIVE))[0] == "StorageDirectory"
    assert only_problem(changed("StorageDirectory", Removed, NATIVE))[0] == "StorageDirectory"
    relative = accepted(
        changed("StorageDirectory", "db", NATIVE), Capabilities(configuration_path=Path("/etc/orthanc/orthanc.json"))
    )
    assert relative.settings.storage.cache_directory == Path("/etc/orthanc/db/isen/cache")


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ({"IndexDirectory": "/index", "StorageDirectory": "/storage"}, "/index"),
        ({"StorageDirectory": "/storage"}, "/storage"),
        ({"IndexDirectory": "", "StorageDirectory": "db"}, "/etc/orthanc/db"),
        ({}, "/etc/orthanc/OrthancStorage"),
    ],
)
def test_the_folder_of_orthancs_index_is_the_one_that_orthanc_uses(named: dict[str, str], expected: str) -> None:
    there = Capabilities(configuration_path=Path("/etc/orthanc/orthanc.json"))
    assert accepted({**GOOD, **named}, there).settings.storage.index_directory == Path(expected)


def test_a_relative_folder_of_orthancs_index_is_none_that_is_known() -> None:
    assert accepted({**GOOD, "IndexDirectory": "db"}).settings.storage.index_directory is None


@pytest.mark.parametrize(
    ("option", "value", "mode"),
    [
        ("HybridMode", "WriteToFileSystem", "WriteToFileSystem"),
        ("HybridMode", "WriteToObjectStorage", "WriteToObjectStorage"),
        ("MigrationFromFileSystemEnabled", True, "WriteToObjectStorage"),  # the old name
        ("MigrationFromFileSystemEnabled", False, "Disabled"),
    ],
)
def test_hybrid_mode_is_the_native_plugins_over_orthancs_folder(option: str, value: Any, mode: str) -> None:
    for configuration in (native(option, value), changed(f"Isen.Storage.{option}", value, GOOD_WITH_FOLDER)):
        settings = accepted(configuration).settings.storage
        assert settings.hybrid_mode == mode
        assert settings.storage_directory == (None if mode == "Disabled" else Path("/var/lib/orthanc"))


def test_both_names_of_hybrid_mode_are_one_too_many() -> None:
    configuration = changed(
        "AwsS3Storage.MigrationFromFileSystemEnabled", value=True, base=native("HybridMode", "Disabled")
    )
    assert only_problem(configuration)[0] == "AwsS3Storage.MigrationFromFileSystemEnabled"


def test_hybrid_mode_needs_an_absolute_storage_directory() -> None:
    hybrid = storage("HybridMode", "WriteToObjectStorage")
    for value in (Removed, "OrthancStorage", ""):
        configuration = hybrid if value is Removed else changed("StorageDirectory", value, hybrid)
        assert only_problem(configuration)[0] == "StorageDirectory"


def test_what_is_written_to_the_file_system_cannot_wait_for_s3() -> None:
    configuration = changed("Isen.Storage.Durability", "ObjectStore", GOOD_WITH_FOLDER)
    accepted(changed("Isen.Storage.HybridMode", "WriteToObjectStorage", configuration))
    path, _ = only_problem(changed("Isen.Storage.HybridMode", "WriteToFileSystem", configuration))
    assert path == "Isen.Storage.Durability"


def test_that_files_are_not_encrypted_is_a_warning_only() -> None:
    encryption = {"CurrentKey": "2026", "Keys": {"2026": "/etc/isen/2026.key"}}
    hybrid = changed("Isen.Storage.HybridMode", "WriteToFileSystem", GOOD_WITH_FOLDER)
    (warning,) = accepted(changed("Isen.Storage.Encryption", encryption, hybrid)).warnings
    assert warning.startswith("Isen.Storage.Encryption: does not encrypt what WriteToFileSystem stores")


def test_an_unsynced_storage_area_is_a_warning_only() -> None:
    configuration = changed("SyncStorageArea", value=False, base=GOOD_WITH_FOLDER)
    assert accepted(configuration).warnings == ()
    (warning,) = accepted(changed("Isen.Storage.HybridMode", "WriteToFileSystem", configuration)).warnings
    assert warning.startswith("SyncStorageArea: ")


def test_a_native_endpoint_without_a_scheme_is_https() -> None:
    assert (
        accepted(native("Endpoint", "s3.example.org:9000")).settings.storage.endpoint == "https://s3.example.org:9000"
    )
    assert accepted(native("Endpoint", "http://s3.example.org")).settings.storage.endpoint == "http://s3.example.org"


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("StorageEncryption", {"Enable": False}),
        ("HybridMode", "Disabled"),
        ("MigrationFromFileSystemEnabled", False),
        ("StorageClass", ""),
        ("Tags", {}),
    ],
)
def test_a_native_option_that_asks_for_nothing_is_accepted_in_silence(option: str, value: Any) -> None:
    loaded = accepted(native(option, value))
    assert not any(option in warning for warning in loaded.warnings)


@pytest.mark.parametrize(
    "option",
    [
        "ConnectionTimeout",
        "EnableAwsSdkLogs",
        "EnableLegacyUnknownFiles",
        "MaxConnections",
        "MaxRetries",
        "TransferBufferSize",
        "TransferPoolSize",
        "UseTransferManager",
        "_comment",
    ],
)
def test_a_native_option_without_effect_here_is_named_in_a_warning(option: str) -> None:
    warnings = accepted(native(option, 7)).warnings
    assert any(warning.startswith(f"AwsS3Storage.{option}: is ignored") for warning in warnings)


def test_mistakes_in_the_native_section_carry_its_path() -> None:
    assert problems(native("ConnectTimeout", 0)).keys() == {"AwsS3Storage.ConnectTimeout"}


def test_both_sections_mean_isens_with_a_warning() -> None:
    loaded = accepted(GOOD | {"AwsS3Storage": {"BucketName": "other", "Region": "x"}})
    assert loaded.settings.storage.bucket_name == "dicom"
    assert any(warning.startswith("AwsS3Storage: is ignored") for warning in loaded.warnings)


def test_the_native_plugin_loaded_beside_isen_is_refused(tmp_path: Path) -> None:
    assert "Plugins" in problems(GOOD | {"Plugins": ["/usr/lib/libOrthancAwsS3Storage.so"]})
    (tmp_path / "libOrthancAwsS3Storage.so").touch()
    assert "Plugins" in problems(GOOD | {"Plugins": [str(tmp_path)]})
    assert not problems(GOOD | {"Plugins": ["/usr/share/orthanc/plugins/libOrthancPython.so", "/nowhere"]})
