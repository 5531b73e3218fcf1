"""Puts a folder into an S3 store, many files at a time.

    python upload.py FOLDER s3://BUCKET/PREFIX

The store's address and keys come from AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.
Any other S3 client does the same: `aws s3 cp --recursive FOLDER s3://BUCKET/PREFIX`.
"""

import argparse
import os
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

AT_ONCE = 16
RETRIES = {"max_retries": 3, "retry_timeout": timedelta(seconds=20)}


def main() -> None:
    """Upload the folder and say how many files there were."""
    parser = argparse.ArgumentParser(description="Put a folder into an S3 store")
    parser.add_argument("folder", type=Path)
    parser.add_argument("uri", help="s3://BUCKET/PREFIX")
    parsed = parser.parse_args()
    if not parsed.uri.startswith("s3://"):
        parser.error(f"{parsed.uri} is no s3:// address")
    if not parsed.folder.is_dir():
        parser.error(f"{parsed.folder} is no folder")
    try:
        count = upload(parsed.folder, parsed.uri)
    except BaseError as error:
        reason = str(error).partition("\n")[0]  # a dump of all its causes follows
        address = os.environ.get("AWS_ENDPOINT_URL", "the address of AWS (AWS_ENDPOINT_URL is not set)")
        parser.exit(1, f"{parsed.uri} cannot be written at {address}; does the port-forward still run? {reason}\n")
    print(f"{count} files are at {parsed.uri}")


def upload(folder: Path, uri: str) -> int:
    """Upload every file below the folder under its relative path; return how many."""
    is_plain = os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://")
    store = S3Store.from_url(uri, client_options={"allow_http": is_plain}, retry_config=RETRIES)
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        done = pool.map(lambda path: obstore.put(store, path.relative_to(folder).as_posix(), path), files)
        return sum(1 for _ in done)


if __name__ == "__main__":
    main()
