"""The DICOM upper layer (PS3.8) and message exchange (PS3.7), event-driven and bounded.

    socket ─ Transport ─ PduStream ─ MessageReader ─ Association ─ Dispatcher ─ Service.serve(request)

One thread serves an association while it is busy; it blocks in poll(2), never in a sleep. Associations without traffic
and connections that have not asked for one yet have no thread: one epoll owns them (`scp.association_server`).
From pynetdicom come the SOP classes, the DIMSE primitives and the requestor's A-ASSOCIATE PDUs.
"""

from scp.upper_layer.errors import AbortReason, AssociationEnded, ProtocolViolation

__all__ = ["AbortReason", "AssociationEnded", "ProtocolViolation"]
