"""What Isen asks of the Orthanc it finds itself in."""

from __future__ import annotations

import os
import subprocess

import pytest

from backend.stack.orthanc import NotStarted
from tests.integration.harness import NodeMaker


def orthanc_version() -> tuple[int, ...]:
    program = os.environ.get("ORTHANC", "/usr/sbin/Orthanc")
    first = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout.split()[1]
    return tuple(map(int, first.split(".")))


@pytest.mark.parametrize("section", [None, {"AllowThreads": False}])
def test_threads_must_be_allowed_where_there_is_such_an_option(
    make_node: NodeMaker, section: dict[str, bool] | None
) -> None:
    """Otherwise a read of an attachment can block Orthanc for ever."""
    node = make_node()
    if section is None:
        del node.orthanc.settings["Python"]
    else:
        node.orthanc.settings["Python"].update(section)
    if orthanc_version() < (1, 12):  # Debian 12: its Python plugin, 4.0, does not have it
        node.start()
        return
    with pytest.raises(NotStarted) as refused:
        node.start()
    assert "Isen cannot start: Python.AllowThreads: must be true" in refused.value.log
    assert '"AllowThreads": true}' in refused.value.log
    assert node.processes() == {}


def test_the_storage_area_is_the_newest_that_the_python_plugin_has(make_node: NodeMaker) -> None:
    node = make_node({"Isen": {"Dicom": {"Enabled": False}}}).start()
    plugin = node.orthanc.get_json("/plugins/python")["Version"]
    expected = 3 if tuple(map(int, plugin.split("."))) >= (7, 1) else 1
    assert node.status()["Storage"]["StorageArea"] == expected
