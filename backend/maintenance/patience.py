"""An operation on the object store tried again while that can help: a long run must not end over one lost packet."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeVar

from backend.transfer.back_off import back_off
from backend.transfer.object_store.errors import ObjectError, ObjectStoreError

_ATTEMPTS: Final = 4
_Value = TypeVar("_Value")


def patiently(operation: Callable[[], _Value]) -> _Value:
    """The result of the first attempt that succeeds.

    Raises:
        ObjectStoreError: of the last attempt, or of the first that another cannot mend.
    """
    for failures in range(1, _ATTEMPTS):
        try:
            return operation()
        except ObjectError:
            raise
        except ObjectStoreError as error:
            if not error.retry_helps:
                raise
            time.sleep(back_off(failures, first=0.2, cap=2.0))
    return operation()
