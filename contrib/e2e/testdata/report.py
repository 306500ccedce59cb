"""Reads delivery status notifications as others do.

Standard input is a JSON list of messages, base64; standard output the list of what
they say. The MIME is read by Python's email package, the bounces again by
flufl.bounce, which is Mailman's."""

import base64
import email
import json
import sys

from flufl.bounce import all_failures


def text(s):
    """What the package has read octet by octet is UTF-8."""
    return " ".join(s.encode("utf-8", "surrogateescape").decode("utf-8").split())


def fields(message):
    return {k.lower(): text(v) for k, v in message.raw_items()}


def blocks(part):
    """The groups of fields of a delivery status."""
    if part.get_content_type() == "message/delivery-status":
        return [fields(m) for m in part.get_payload()]
    # message/global-delivery-status (RFC 6533) is to the package a message like any
    # other: the first group is its header, its body the rest.
    m = part.get_payload(0)
    rest = m.get_payload(decode=True).decode("utf-8").replace("\r\n", "\n").strip("\n").split("\n\n")
    return [fields(m)] + [fields(email.message_from_string(b)) for b in rest]


def returned(part):
    """The header of the original."""
    if part.get_content_maintype() == "message":
        return fields(part.get_payload(0))
    return fields(email.message_from_bytes(part.get_payload(decode=True)))


def report(raw):
    m = email.message_from_bytes(raw)
    parts = m.get_payload()
    status = blocks(parts[1])
    temporary, permanent = all_failures(m)
    decode = lambda s: sorted(a.decode() if isinstance(a, bytes) else a for a in s)
    return {
        "type": m.get_content_type(),
        "report_type": m.get_param("report-type"),
        "subject": m["subject"],
        "auto": m["auto-submitted"],
        "parts": [p.get_content_type() for p in parts],
        "defects": [repr(d) for p in m.walk() for d in p.defects],
        "message": status[0],
        "recipients": status[1:],
        "returned": returned(parts[2]),
        "temporary": decode(temporary),
        "permanent": decode(permanent),
    }


json.dump([report(base64.b64decode(m)) for m in json.load(sys.stdin)], sys.stdout)
