"""Data sets as they come off the wire: encoded by pydicom and read back without converting a single value."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from typing import Any

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset
from pydicom.tag import Tag


def data_set(attributes: Mapping[str, Any] | None = None, **more: Any) -> Dataset:
    """A data set from keywords; a dict is one item of a sequence, a list of dicts several."""
    made = Dataset()
    for keyword, value in {**(attributes or {}), **more}.items():
        if isinstance(value, dict):
            value = [value]  # noqa: PLW2901 - one item stands for a sequence of one
        if isinstance(value, list) and all(isinstance(item, dict) for item in value):
            value = [data_set(item) for item in value]  # noqa: PLW2901 - as above
        setattr(made, keyword, value)
    return made


def received(dataset: Dataset, *, implicit_vr: bool = True, little_endian: bool = True) -> Dataset:
    """What `dataset` looks like after a trip over the network."""
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = implicit_vr, little_endian
    write_dataset(buffer, dataset)
    return read_dataset(BytesIO(buffer.getvalue()), implicit_vr, little_endian)


def with_bytes(dataset: Dataset, keyword: str, value: bytes) -> Dataset:
    """`dataset` with an attribute of these very bytes, as a peer that does not follow the Standard would send it."""
    tag = Tag(keyword)
    dataset[tag] = RawDataElement(tag, None, len(value), value, 0, is_implicit_VR=True, is_little_endian=True)
    return dataset
