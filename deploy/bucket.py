"""Make a bucket, unless it is there: ``python bucket.py NAME``.

Where and with which keys, the usual ``AWS_…`` variables say.
"""

import sys

import botocore.session
from botocore.exceptions import ClientError

THERE = {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}


def main(name: str) -> None:
    """Make the bucket ``name``; raise ClientError where that is refused."""
    try:
        botocore.session.get_session().create_client("s3").create_bucket(Bucket=name)
    except ClientError as error:
        if error.response["Error"]["Code"] not in THERE:
            raise


if __name__ == "__main__":
    main(sys.argv[1])
