"""What Isen's processes inherit from Orthanc's environment."""

from __future__ import annotations

from typing import Any

import pytest

from backend.plugin.configuration import child_environment, key_variables

KEYS = {"2026": "env:ISEN_KEY", "2025": "/etc/isen/2025.key"}


@pytest.mark.parametrize(
    "section", [{"Isen": {"Storage": {"Encryption": {"Keys": KEYS}}}}, {"AwsS3Storage": {"Encryption": {"Keys": KEYS}}}]
)
def test_variables_with_keys_are_known_before_the_configuration_is_validated(section: dict[str, Any]) -> None:
    assert "ISEN_KEY" in key_variables(section)


@pytest.mark.parametrize(
    "section",
    [{}, {"Isen": None}, {"Isen": {"Storage": []}}, {"Isen": {"Storage": {"Encryption": {"Keys": {"a": 1}}}}}],
)
def test_a_configuration_without_them_or_with_mistakes_names_none(section: dict[str, Any]) -> None:
    assert key_variables(section) == set()


def test_secrets_and_what_bends_another_interpreter_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ISEN_KEY", "PYTHONPATH", "ISEN_OTHER"):
        monkeypatch.setenv(name, "x")
    assert {"ISEN_OTHER", "ISEN_KEY"} <= child_environment().keys()
    assert "ISEN_KEY" not in child_environment({"ISEN_KEY"})
    assert "PYTHONPATH" not in child_environment()
