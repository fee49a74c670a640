"""Until when a certificate is valid: five fields deep in its DER, which Python's ssl module tells of a peer alone.

A library for X.509 would be the operator's largest dependency for the sake of one date.
"""

import re
import ssl
from datetime import UTC, datetime

_BLOCK = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_SEQUENCE, _VERSION, _UTC_TIME = 0x30, 0xA0, 0x17


def not_after(pem: bytes) -> datetime | None:
    """Return the end of the first certificate of a PEM text, None when there is none that can be read."""
    block = _BLOCK.search(pem)
    if block is None:
        return None
    try:
        return _end(ssl.PEM_cert_to_DER_cert(block.group().decode()))
    except (ValueError, IndexError):
        return None


def _end(der: bytes) -> datetime:
    (_, certificate), *_ = _elements(der)
    (_, signed), *_ = _elements(certificate)
    fields = [element for element in _elements(signed) if element[0] != _VERSION]
    tag, validity = fields[3]  # serial number, algorithm, issuer, validity
    if tag != _SEQUENCE:
        raise ValueError("no validity where a certificate has it")
    _, (tag, text) = _elements(validity)
    digits = text.decode("ascii").removesuffix("Z")
    if tag == _UTC_TIME:  # RFC 5280: two digits, 50 and up are of the last century
        digits = ("19" if digits >= "50" else "20") + digits
    return datetime.strptime(digits, "%Y%m%d%H%M%S").replace(tzinfo=UTC)


def _elements(content: bytes) -> list[tuple[int, bytes]]:
    """Return the elements (tag, content) that follow one another in a DER content."""
    found, at = [], 0
    while at < len(content):
        tag, size, at = content[at], content[at + 1], at + 2
        if size & 0x80:
            count = size & 0x7F
            size, at = int.from_bytes(content[at : at + count], "big"), at + count
        found.append((tag, content[at : at + size]))
        at += size
    return found
