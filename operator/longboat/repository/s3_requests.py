"""Signed requests to S3 (AWS Signature Version 4), for the few calls that obstore lacks.

Libraries were tried first: botocore can not be installed beside kubernetes 37, and minio reads no list of versions in
which a time has nanoseconds.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import quote, urlsplit

import urllib3

from .bucket_clients import Patience
from .bucket_errors import error_of_code
from .errors import ObjectLockedError, RepositoryError, StoreFailureError, TlsError, UnreachableError
from .settings import StoreSettings

Query = Mapping[str, str]
_CODE = re.compile(r"<Code>([A-Za-z0-9.]+)</Code>")
_STATUS_CODES = {401: "InvalidToken", 403: "AccessDenied", 404: "NoSuchKey", 501: "NotImplemented"}
_ATTEMPTS_ON = [500, 502, 503, 504]


class S3Requests:
    """Requests to one bucket, path style; safe to use from many threads."""

    def __init__(self, settings: StoreSettings, patience: Patience) -> None:
        """Prepare the connections; nothing is sent."""
        self._settings = settings
        self._host = urlsplit(settings.service_endpoint).netloc
        self._http = urllib3.PoolManager(
            timeout=urllib3.Timeout(connect=patience.connect, read=patience.request),
            # Every one of these requests may be repeated: the same version is removed or locked again.
            retries=urllib3.Retry(
                total=patience.retries, backoff_factor=0.2, status_forcelist=_ATTEMPTS_ON, allowed_methods=None
            ),
            cert_reqs="CERT_REQUIRED",
            ca_cert_data=settings.ca_pem or None,
            maxsize=16,
        )

    def send(self, method: str, key: str, query: Query, what: str, body: bytes = b"") -> bytes:
        """Send a request for an object, or for the bucket if `key` is empty, and return the answer's body.

        Whatever the service refuses is a StoreError that names `what`.
        """
        path = quote(f"/{self._settings.bucket}/{key}".rstrip("/"), safe="/-_.~")
        text = "&".join(
            f"{quote(name, safe='-_.~')}={quote(value, safe='-_.~')}" for name, value in sorted(query.items())
        )
        headers = self._headers(method, path, text, body, datetime.now(UTC))
        try:
            answer = self._http.request(method, f"https://{self._host}{path}?{text}", body=body, headers=headers)
        except urllib3.exceptions.HTTPError as error:
            kind: type[RepositoryError] = TlsError if "SSLError" in repr(error) else UnreachableError
            raise kind(f"{what}: {'the TLS handshake failed' if kind is TlsError else 'no connection'}") from None
        if answer.status >= 300:
            raise _refusal(answer.status, answer.data, what)
        return answer.data

    def _headers(self, method: str, path: str, query: str, body: bytes, now: datetime) -> dict[str, str]:
        digest = hashlib.sha256(body).hexdigest()
        headers = {"host": self._host, "x-amz-content-sha256": digest, "x-amz-date": now.strftime("%Y%m%dT%H%M%SZ")}
        if body:
            # Locks are set only by requests that carry a checksum of their own.
            headers["content-md5"] = base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
        names = ";".join(sorted(headers))
        signed = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
        request = "\n".join((method, path, query, signed, names, digest))
        scope = f"{now:%Y%m%d}/{self._settings.region}/s3/aws4_request"
        hashed = hashlib.sha256(request.encode()).hexdigest()
        signature = self._sign(scope, f"AWS4-HMAC-SHA256\n{headers['x-amz-date']}\n{scope}\n{hashed}")
        credential = f"Credential={self._settings.access_key_id}/{scope}"
        headers["authorization"] = f"AWS4-HMAC-SHA256 {credential}, SignedHeaders={names}, Signature={signature}"
        return headers

    def _sign(self, scope: str, text: str) -> str:
        key = f"AWS4{self._settings.secret_access_key}".encode()
        for part in scope.split("/"):
            key = hmac.digest(key, part.encode(), "sha256")
        return hmac.digest(key, text.encode(), "sha256").hex()


def _quoted(text: str) -> str:
    return quote(text, safe="-_.~")


def _refusal(status: int, data: bytes, what: str) -> RepositoryError:
    text = data[:4096].decode(errors="replace")
    found = _CODE.search(text)
    code = found[1] if found else _STATUS_CODES.get(status, f"status {status}")
    kind = error_of_code(code) if status < 500 or status == 501 else StoreFailureError
    # Services tell a lock from a lacking right by their words only.
    if code == "AccessDenied" and "object lock" in text.lower():
        kind = ObjectLockedError
    return kind(f"{what}: {code}")
