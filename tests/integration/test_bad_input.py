"""What peers send that makes no sense: the proper status each time, and the SCP goes on."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import pytest
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from pynetdicom import AE
from pynetdicom.dimse_primitives import C_STORE

from backend.stack.dcmtk import StoreScp
from backend.stack.samples import worklist_item
from scp.statuses import CANNOT_UNDERSTAND, DATA_SET_DOES_NOT_MATCH, MOVE_DESTINATION_UNKNOWN, SUCCESS
from tests.fakes.images import made_up_ct
from tests.integration.harness import Node, NodeMaker


def store_encoded(node: Node, data_set: bytes, sop_instance_uid: str = "") -> int:
    """C-STORE of these bytes as a CT image; the status that comes back."""
    ae = AE("MODALITY")
    ae.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
    association = ae.associate("127.0.0.1", node.orthanc.dicom_port, ae_title="ORTHANC")
    assert association.is_established
    try:
        request = C_STORE()
        request.MessageID = 1
        request.AffectedSOPClassUID = CTImageStorage
        request.AffectedSOPInstanceUID = sop_instance_uid or generate_uid()
        request.Priority = 2
        request.DataSet = BytesIO(data_set)
        association._reactor_checkpoint.clear()  # as send_c_store does: the answer is ours
        (context,) = association.accepted_contexts
        assert context.context_id is not None
        association.dimse.send_msg(request, context.context_id)
        _, response = association.dimse.get_msg(block=True)
        association._reactor_checkpoint.set()
        assert isinstance(response, C_STORE)
        assert response.Status is not None
        return response.Status
    finally:
        association.release()


@pytest.mark.parametrize(
    "data_set",
    [
        pytest.param(b"this is no data set, whatever its transfer syntax says" * 20, id="text"),
        pytest.param(b"\x00" * 4096, id="zeros"),
        pytest.param(b"\xff" * 4096, id="ones"),
        pytest.param(b"\x08\x00\x18\x00UI\xff\xff" + b"1.2.3", id="element longer than the data set"),
    ],
)
def test_a_data_set_that_is_none_is_refused_and_not_stored(node: Node, data_set: bytes) -> None:
    before = node.instances()
    status = store_encoded(node, data_set)
    assert status in {CANNOT_UNDERSTAND, DATA_SET_DOES_NOT_MATCH}, f"0x{status:04X}"
    assert node.instances() == before
    assert node.peer.echo().exit_code == 0


def test_a_data_set_of_another_instance_than_the_command_says_is_refused(node: Node) -> None:
    """PS3.4 Table B.2-1: A9xx, data set does not match SOP class."""
    image = made_up_ct(generate_uid(), generate_uid(), 1, side=16)
    encoded = BytesIO()
    image.save_as(encoded, enforce_file_format=True)
    before = node.instances()
    bare = encoded.getvalue()[encoded.getvalue().index(b"\x08\x00\x16\x00UI") :]
    assert store_encoded(node, bare) == DATA_SET_DOES_NOT_MATCH
    assert node.instances() == before


@pytest.mark.parametrize(("levels", "status"), [(32, SUCCESS), (33, CANNOT_UNDERSTAND), (2000, CANNOT_UNDERSTAND)])
def test_sequences_that_would_exhaust_orthancs_stack_do_not_get_there(
    make_node: NodeMaker, tmp_path: Path, levels: int, status: int
) -> None:
    """An Orthanc that gets 50 levels over its REST API may crash; 32 it must bear."""
    node = make_node()
    node.start()
    path = tmp_path / "image.dcm"
    image = made_up_ct(generate_uid(), generate_uid(), 1, side=16)
    del image.PixelData
    image.save_as(path, enforce_file_format=True)
    with path.open("ab") as file:
        file.write(b"\x40\x00\x30\xa7SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" * levels)
        file.write(b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0" * levels)
    bare = path.read_bytes()[path.read_bytes().index(b"\x08\x00\x16\x00UI") :]
    assert store_encoded(node, bare, image.SOPInstanceUID) == status
    assert node.orthanc.get_json("/statistics")["CountInstances"] == (status == SUCCESS)
    assert node.peer.echo().exit_code == 0


def test_a_move_to_an_unknown_destination_is_refused(node: Node, thumbnails: list[Path]) -> None:
    """PS3.4 Table C.4-2: A801."""
    node.peer.send(*thumbnails)
    study = node.orthanc.get_json("/studies?expand")[0]["MainDicomTags"]["StudyInstanceUID"]
    answer = node.peer.move("NOWHERE", "QueryRetrieveLevel=STUDY", f"StudyInstanceUID={study}")
    assert answer.statuses == [MOVE_DESTINATION_UNKNOWN]


def test_a_move_of_an_unknown_instance_moves_nothing(make_node: NodeMaker, tmp_path: Path) -> None:
    destination = StoreScp(tmp_path / "destination", "DEST")
    try:
        node = make_node({"DicomModalities": {"dest": ["DEST", "127.0.0.1", destination.port]}}).start()
        answer = node.peer.move(
            "DEST",
            "QueryRetrieveLevel=IMAGE",
            "StudyInstanceUID=1.2.3",
            "SeriesInstanceUID=1.2.3.4",
            "SOPInstanceUID=1.2.3.4.5",
        )
        assert answer.statuses == [SUCCESS]  # nothing matched, so there was nothing to move
        assert destination.received() == []
        assert node.peer.echo().exit_code == 0
    finally:
        destination.stop()


@pytest.mark.parametrize(
    "keys",
    [
        pytest.param(("PatientName=*",), id="no level"),
        pytest.param(("QueryRetrieveLevel=GALAXY", "PatientName=*"), id="unknown level"),
        pytest.param(("QueryRetrieveLevel=STUDY", "StudyDate=yesterday"), id="a date that is none"),
        pytest.param(("QueryRetrieveLevel=STUDY", "StudyInstanceUID=*[a-z]%_';--"), id="no UID"),
        pytest.param(("QueryRetrieveLevel=STUDY", "PatientID=" + "?*" * 5000), id="ten thousand wild cards"),
    ],
)
def test_an_absurd_query_is_refused_and_matches_nothing(node: Node, keys: tuple[str, ...]) -> None:
    """PS3.4 Table C.4-1: A900, Identifier does not match SOP class."""
    answer = node.peer.find(*keys)
    assert answer.statuses == [DATA_SET_DOES_NOT_MATCH]
    assert answer.data_sets == []
    assert node.peer.echo().exit_code == 0


def test_a_worklist_file_that_does_not_parse_hides_no_other(node: Node) -> None:
    """One log line names the file's trouble; the others are matched."""
    folder = node.folder / "worklists"
    broken = folder / "broken.wl"
    broken.write_bytes(b"DICM, or so it says")
    (folder / "empty.wl").write_bytes(b"")
    worklist_item().save_as(folder / "good.wl", enforce_file_format=True)
    answer = node.peer.find("PatientName", "AccessionNumber", model="-W")
    assert answer.statuses[-1] == 0
    assert [found.AccessionNumber for found in answer.data_sets] == ["A42"]
    assert f"worklist_file_skipped inode={broken.stat().st_ino} " in node.orthanc.process.output()
