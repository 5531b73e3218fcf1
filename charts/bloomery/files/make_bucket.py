"""Make the bucket $BUCKET, once the server at $AWS_ENDPOINT_URL answers; one that is there already is well."""

import os
import sys
import time

import boto3
from botocore.exceptions import BotoCoreError, ClientError

WAIT_SECONDS = 300


def main() -> None:
    """Try until it works or time is up."""
    bucket = os.environ["BUCKET"]
    s3 = boto3.client("s3", region_name=os.environ["AWS_REGION"])
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            names = [entry["Name"] for entry in s3.list_buckets()["Buckets"]]
            if bucket not in names:
                s3.create_bucket(Bucket=bucket)
        except (BotoCoreError, ClientError) as error:
            if time.monotonic() > deadline:
                sys.exit(f"could not make the bucket {bucket}: {error}")
            print(f"waiting for the object store: {error}", flush=True)
            time.sleep(2)
        else:
            print(f"the bucket {bucket} is there", flush=True)
            return


main()
