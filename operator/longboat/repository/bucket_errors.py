"""What a bucket's service answered, as one of our errors: by its error code, else by status, else by what broke."""

from __future__ import annotations

import re

from obstore.exceptions import AlreadyExistsError, PermissionDeniedError, UnauthenticatedError
from obstore.exceptions import PreconditionError as ObstorePreconditionError

from .errors import (
    AccessDeniedError,
    BucketNotFoundError,
    ClockSkewError,
    CredentialsError,
    DamagedError,
    NoAnswerError,
    ObjectExistsError,
    ObjectLockedError,
    ObjectNotFoundError,
    PreconditionError,
    RepositoryError,
    StoreError,
    StoreFailureError,
    StoreUnsupportedError,
    TlsError,
    UnreachableError,
)

MAY_NOT_OVERWRITE = "storage.objects.delete"
"""The right that Google Cloud Storage misses when an object is created whose name is taken."""
CONFLICT = "ConditionalRequestConflict"
BROKEN = "error sending request"  # No answer came: whether the request was carried out is not known.
_CODE = re.compile(r"<Code>([A-Za-z0-9.]+)</Code>")
_STATUS = re.compile(r"(?:status code|\(code): (\d{3})")
_S3_AND_GCS: dict[str, type[RepositoryError]] = {
    "InvalidRange": DamagedError,
    "NoSuchKey": ObjectNotFoundError,
    "NoSuchBucket": BucketNotFoundError,
    "AccessDenied": AccessDeniedError,
    "AllAccessDisabled": AccessDeniedError,
    "InvalidAccessKeyId": CredentialsError,
    "SignatureDoesNotMatch": CredentialsError,
    "XAdminUserNotFound": CredentialsError,
    "ExpiredToken": CredentialsError,
    "InvalidToken": CredentialsError,
    "AuthenticationRequired": CredentialsError,
    "RequestTimeTooSkewed": ClockSkewError,
    "PreconditionFailed": PreconditionError,
    CONFLICT: StoreFailureError,
    "OperationAborted": StoreFailureError,
    "NotImplemented": StoreUnsupportedError,
    "InvalidObjectState": ObjectLockedError,
    "ObjectUnderActiveHold": ObjectLockedError,
    "RetentionPolicyNotMet": ObjectLockedError,
}
_AZURE: dict[str, type[RepositoryError]] = {
    "BlobNotFound": ObjectNotFoundError,
    "ContainerNotFound": BucketNotFoundError,
    "ContainerBeingDeleted": BucketNotFoundError,
    "AuthenticationFailed": CredentialsError,
    "InvalidAuthenticationInfo": CredentialsError,
    "NoAuthenticationInformation": CredentialsError,
    "AuthorizationFailure": AccessDeniedError,
    "AuthorizationPermissionMismatch": AccessDeniedError,
    "AuthorizationProtocolMismatch": AccessDeniedError,
    "AuthorizationResourceTypeMismatch": AccessDeniedError,
    "AuthorizationServiceMismatch": AccessDeniedError,
    "AuthorizationSourceIPMismatch": AccessDeniedError,
    "InsufficientAccountPermissions": AccessDeniedError,
    "AccountIsDisabled": AccessDeniedError,
    "BlobAlreadyExists": ObjectExistsError,
    # What a token that may only create is told of an object that exists.
    "UnauthorizedBlobOverwrite": ObjectExistsError,
    "ConditionNotMet": PreconditionError,
    "TargetConditionNotMet": PreconditionError,
    "BlobImmutableDueToPolicy": ObjectLockedError,
}
_CODES = _S3_AND_GCS | _AZURE
_TLS_SIGN = re.compile(r"InvalidCertificate\(\s*(\w+)|(InvalidMessage|AlertReceived|NoCertificatesPresented)")
_NETWORK_SIGN = re.compile(r"kind: (Connect|Timeout)\b")
# Azure's bulk deletion tells in words what a single request tells as a code.
_CONTAINER_SIGN = re.compile(r"specified container does not exist")
_TOKEN_SIGN = re.compile(
    r"token request|Error getting token|fetching token|invalid_grant|invalid_client", re.IGNORECASE
)
_VARYING = re.compile(
    r"(Generic \w+ error: )?(Error performing list request: )?Error performing \w+ \S+ in \S+( - )?"
    r"|, after \d+ retries|, max_retries: \d+|, retry_timeout: \S+"
)


def translate(error: Exception, what: str) -> Exception:
    """Return what the caller is told; `what` names store and object."""
    text = str(error)
    code = _CODE.search(text)
    kind = _CODES.get(code[1]) if code else None
    if isinstance(error, AlreadyExistsError):
        kind = StoreFailureError if code and code[1] == CONFLICT else ObjectExistsError
    elif isinstance(error, ObstorePreconditionError):
        kind = PreconditionError
    kind = kind or _by_sign(text) or _by_class(error) or _by_status(text) or _by_transport(text)
    words = code[1] if code else detail(error)
    return kind(f"{what}: {words}, lacking {MAY_NOT_OVERWRITE}" if MAY_NOT_OVERWRITE in text else f"{what}: {words}")


def error_of_code(code: str) -> type[RepositoryError]:
    """Return the error that a service's code stands for."""
    return _CODES.get(code, StoreFailureError)


def _by_sign(text: str) -> type[StoreError] | None:
    if _CONTAINER_SIGN.search(text):
        return BucketNotFoundError
    status = _STATUS.search(text)
    refused = status is not None and status[1] in {"400", "401", "403"}
    return CredentialsError if refused and _TOKEN_SIGN.search(text) else None


def _by_class(error: Exception) -> type[StoreError] | None:
    if isinstance(error, FileNotFoundError):
        return ObjectNotFoundError
    if isinstance(error, PermissionDeniedError):
        return AccessDeniedError
    return CredentialsError if isinstance(error, UnauthenticatedError) else None


def _by_status(text: str) -> type[StoreError] | None:
    status = _STATUS.search(text)
    if status is None:
        return None
    return {"501": StoreUnsupportedError, "401": CredentialsError, "403": AccessDeniedError}.get(
        status[1], StoreFailureError if status[1][0] == "5" or status[1] in {"408", "429"} else StoreError
    )


def _by_transport(text: str) -> type[StoreError]:
    if _TLS_SIGN.search(text):
        return TlsError
    if found := _NETWORK_SIGN.search(text):
        return UnreachableError if found[1] == "Connect" else NoAnswerError
    return StoreFailureError


def detail(error: Exception) -> str:
    """Return one line without times and counts, as it may become a condition that should not change by itself."""
    text = str(error)
    tls, network = _TLS_SIGN.search(text), _NETWORK_SIGN.search(text)
    if tls:
        return f"the TLS handshake failed: {tls[1] or tls[2]}"
    if network:
        return "no connection" if network[1] == "Connect" else "no answer in time"
    line = text.split("\n", 1)[0].split(": <?xml", 1)[0]
    return _VARYING.sub("", line)[:400].strip(" :-")
