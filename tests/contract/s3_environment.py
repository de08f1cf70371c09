"""How tests find an S3 server: the environment variable LONGBOAT_TEST_S3, JSON with its address and credentials.

{"endpoint": "https://…", "bucket": "…", "region": "…", "accessKeyId": "…", "secretAccessKey": "…", "caFile": "…"}
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from longboat.repository import StoreSettings

VARIABLE = "LONGBOAT_TEST_S3"


def s3_environment(
    endpoint: str, bucket: str, access_key_id: str, secret_access_key: str, ca_file: Path, region: str = "us-east-1"
) -> dict[str, str]:
    """Return what to add to a test run's environment so that the contract tests use this server."""
    server = {
        "endpoint": endpoint,
        "bucket": bucket,
        "region": region,
        "accessKeyId": access_key_id,
        "secretAccessKey": secret_access_key,
        "caFile": str(ca_file),
    }
    return {VARIABLE: json.dumps(server)}


def s3_settings(prefix: str = "") -> StoreSettings | None:
    """Return the settings of the tests' S3 server with a prefix of their own, or None if there is no server."""
    text = os.environ.get(VARIABLE)
    if not text:
        return None
    server = json.loads(text)
    ca_pem = Path(server.pop("caFile")).read_text()
    return StoreSettings.model_validate({"type": "s3", "prefix": prefix, "caPem": ca_pem, **server})
