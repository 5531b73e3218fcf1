"""Start `mlflow server` with the arguments given, after the variables of the Secret are put as boto3 reads them."""

import os
import sys
import tempfile
from pathlib import Path

SYSTEM_BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt")
BUNDLE_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "AWS_CA_BUNDLE")


def main() -> None:
    """Become the server."""
    environment = {name: value.strip() for name, value in os.environ.items()}
    if style := environment.get("AWS_S3_ADDRESSING_STYLE"):
        environment["MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE"] = style.lower()
    # Many stores refuse the checksums that boto3 sends by default; the Secret may ask for them.
    for name in ("AWS_REQUEST_CHECKSUM_CALCULATION", "AWS_RESPONSE_CHECKSUM_VALIDATION"):
        environment.setdefault(name, "when_required")
    if bundle := write_bundle(environment.get("BLOOMERY_CA_FOLDER")):
        environment.update(dict.fromkeys(BUNDLE_VARIABLES, bundle))
    os.execvpe("mlflow", ["mlflow", "server", *sys.argv[1:]], environment)


def write_bundle(folder: str | None) -> str | None:
    """Write the system's CAs and the private ones to one file; return its path, or None without private ones."""
    paths = sorted(Path(folder).glob("[!.]*")) if folder else []
    private = [path.read_bytes() for path in paths if path.is_file()]
    if not private:
        return None
    system = [Path(path).read_bytes() for path in SYSTEM_BUNDLES if Path(path).is_file()][:1]
    descriptor, bundle = tempfile.mkstemp(suffix=".pem")
    with os.fdopen(descriptor, "wb") as file:
        file.write(b"\n".join(system + [content for content in private if b"BEGIN CERTIFICATE" in content]))
    return bundle


main()
