"""JSON that the API server's YAML reader takes too.

Server-side apply is sent as `application/apply-patch+yaml`, and JSON is nearly YAML: but YAML knows no pairs of
surrogate escapes, which is how `json.dumps` writes an emoji. One emoji in the last word of a pod would keep the
status of its job from ever being written again.
"""

import json
import re
from typing import Any

BEYOND_ASCII = re.compile("[\x7f-\uffff]")
"""Characters of one escape. Raw, YAML refuses some of them and takes others as the end of a line; those of the
higher planes it takes raw alone (https://yaml.org/spec/1.2.2/#51-character-set)."""
REPLACEMENT = "\\ufffd"


def encode(body: Any) -> bytes:
    """Return a body as JSON. Half a surrogate pair, which is no character, becomes U+FFFD."""
    text = json.dumps(body, ensure_ascii=False)
    return BEYOND_ASCII.sub(_escape, text).encode()


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    return REPLACEMENT if 0xD800 <= code <= 0xDFFF else f"\\u{code:04x}"
