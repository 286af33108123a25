"""moto's S3 server on a loopback port, reached as a real one is: by the AWS_* variables of the environment."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "access",
    "AWS_SECRET_ACCESS_KEY": "the-store-s-secret",
    "AWS_DEFAULT_REGION": "us-east-1",
}


@contextmanager
def run_object_store(bucket: str = "bucket") -> Iterator[str]:
    """Yields `s3://<bucket>`; sets the environment meanwhile, so that processes started now find the store."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    variables = {**ENVIRONMENT, "AWS_ENDPOINT_URL": f"http://{host}:{port}"}
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        client = boto3.client("s3")
        client.create_bucket(Bucket=bucket)
        client.close()
        yield f"s3://{bucket}"
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        server.stop()
