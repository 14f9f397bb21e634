"""Whether a request comes from corecast."""

import base64
import hashlib
import hmac
import re
import time


def comes_from_corecast(secret, headers, body):
    """`headers` is a mapping with names in lower case, `body` the bytes as they came."""
    sent_at = headers.get("webhook-timestamp", "")
    # What is older than five minutes may be a copy.
    if not re.fullmatch("[0-9]{1,15}", sent_at) or abs(time.time() - int(sent_at)) > 300:
        return False
    if secret.startswith("whsec_"):
        key = base64.b64decode(secret.removeprefix("whsec_"))
    else:
        key = secret.encode()
    signed = f"{headers.get('webhook-id', '')}.{sent_at}.".encode() + body
    expected = b"v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256))
    # Several while a key is being changed.
    signatures = headers.get("webhook-signature", "").split(" ")
    return any(hmac.compare_digest(expected, signature.encode()) for signature in signatures)
