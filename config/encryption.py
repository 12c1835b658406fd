"""`Encryption` and `StorageEncryption` in `Isen.Storage` or in the native plugin's section.

`StorageEncryption` is the native plugin's: what it has encrypted is read, but its format is never written, because it
masks every data key with the same key stream. So it asks for `Encryption` beside it.
"""

from __future__ import annotations

from typing import Any

from config.problems import Findings
from config.section import Section, own_options, read, refuse_unknown
from config.settings import EncryptionSettings, NativeEncryptionSettings


def read_encryption(section: Section, options: dict[str, Any], root: Section, findings: Findings) -> dict[str, Any]:
    """Take both sections out of `options`, the storage's; gives what they mean, for `config.section.read`."""
    derived: dict[str, tuple[str, Any]] = {}
    inner = Section(section.path, {name: options.pop(name, {}) for name in ("Encryption", "StorageEncryption")})
    own = _own(inner.inner("Encryption", findings), root, findings)
    native = _native(inner.inner("StorageEncryption", findings), findings)
    if own:
        derived["Encryption"] = (section.at("Encryption"), own.model_dump(mode="json", by_alias=True))
    if native:
        derived["StorageEncryption"] = (section.at("StorageEncryption"), native.model_dump(mode="json", by_alias=True))
        if not inner.options["Encryption"]:
            findings.refuse(
                section.at("Encryption"),
                "is missing: Isen reads what the native plugin has encrypted, but encrypts in a format of its own, "
                "with keys of its own; name them there (see README.md)",
            )
    return derived


def _own(section: Section, root: Section, findings: Findings) -> EncryptionSettings | None:
    if not section.options:
        return None
    refuse_unknown(section, {*own_options(EncryptionSettings), "Enabled"}, findings)
    if not section.get("Enabled", bool, default=True, findings=findings):
        return None
    settings = read(EncryptionSettings, section, root, findings)
    if settings and settings.current_key not in settings.keys:
        findings.refuse(section.at("CurrentKey"), "is not one of the Keys beside it")
    return settings


def _native(section: Section, findings: Findings) -> NativeEncryptionSettings | None:
    """`{"Enable": true, "MasterKey": [1, "/path"], "PreviousMasterKeys": [[2, "/path"]], …}`."""
    if not section.options or section.get("Enable", bool, default=True, findings=findings) is False:
        return None
    previous = section.get("PreviousMasterKeys", list, default=[], findings=findings)
    keys = {}
    for name, pair in [("MasterKey", section.options.get("MasterKey")), *(("PreviousMasterKeys", p) for p in previous)]:
        match pair:
            case [int(number), str(path)] if 0 <= number < 2**32 and path.startswith("/"):
                keys[str(number)] = path
            case _:
                findings.refuse(section.at(name), "must hold a number and the absolute path of a key's file")
                return None
    return NativeEncryptionSettings(keys=keys)
