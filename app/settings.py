"""Settings of an installation, read from FINESMITH_* environment variables."""

import hashlib
import ipaddress
import json
import os
import re
import tempfile
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

# sun_path holds 108 bytes on Linux, 104 on macOS.
_LONGEST_SOCKET_PATH = 100
_HOST_NAME = re.compile(r"(?=.*[A-Za-z])[A-Za-z0-9_.-]{1,253}")

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Settings(BaseSettings):
    """Everything that an administrator can set; `Settings()` reads the environment, arguments win over it."""

    model_config = SettingsConfigDict(env_prefix="FINESMITH_", extra="ignore", use_attribute_docstrings=True)

    data_dir: Path = Path("finesmith-data")
    """Folder of everything embedded: database, uploads, artifacts, sockets, keys. Made absolute."""
    database_url: str = ""
    """`sqlite:///…` or `postgresql+psycopg://…`. Empty: SQLite in the data folder."""
    redis_url: str = ""
    """Redis or Valkey: `redis://…`, `rediss://…` or `unix:///path`. Empty: the embedded Valkey's socket."""
    storage_url: str = ""
    """Where files and artifacts lie: a folder or a URL such as `s3://bucket/prefix`. Empty: in the data folder."""
    storage_options: SecretStr = SecretStr("")
    """Arguments of the URL's fsspec file system, a JSON object. Empty: S3 reads `AWS_ENDPOINT_URL` and its kind."""
    keep_days: Annotated[float | None, Field(ge=0, allow_inf_nan=False)] = None
    """Days from a job's end until it is removed with its events, logs and artifacts. None: kept for ever."""
    keep_files_days: Annotated[float | None, Field(ge=0, allow_inf_nan=False)] = None
    """Days from an upload until it is removed, if no kept job refers to it. None: kept for ever."""
    max_streams_per_owner: Annotated[int, Field(ge=1)] = 200
    """Event streams that one owner may have open on one API process."""
    stream_lifetime_seconds: Seconds = 600.0
    """A stream is ended after about this long; its client goes on where it was."""
    stall_seconds: Seconds = 30.0
    """A client that takes nothing of its answer for this long is cut off."""
    model_root: Path | None = None
    """Folder of local models, named over HTTP as `local:<name>`. None: local models are refused."""
    config_root: Path | None = None
    """Folder of DeepSpeed configurations, named over HTTP as `local:<name>`. None: they are refused."""
    trusted_model_code: Annotated[tuple[str, ...], NoDecode] = ()
    """Models whose own code may run: comma-separated `owner/name@<commit sha>`."""
    secret_key: SecretStr = SecretStr("")
    """32 bytes in base64: encrypts tokens, signs API keys. Empty: made at first use in `<data_dir>/secret_key`."""
    previous_secret_keys: SecretStr = SecretStr("")
    """Earlier secret keys, comma-separated: they open what they encrypted and signed, and encrypt nothing new."""
    requests_per_minute: Annotated[int | None, Field(ge=1)] = None
    """Requests that one API key may make in a minute, of each server process. None: no limit."""
    failed_authentications_per_minute: Annotated[int | None, Field(ge=1)] = 300
    """Unknown API keys that one address may try in a minute, of each server process. None: no limit."""
    host: str = "127.0.0.1"
    """Address that the server listens on."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """TCP port that the server listens on."""
    webhook_allowed_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    """Receivers of webhooks that may be private or plain http: comma-separated host names, addresses or CIDRs."""
    max_body_bytes: Annotated[int, Field(gt=0)] = 1 << 20
    """Largest body of a request that is not an upload."""
    max_upload_bytes: Annotated[int, Field(gt=0)] = 8 << 30
    """Largest uploaded file."""
    lease_seconds: Seconds = 60.0
    """How long a worker holds a job without a sign of life; a worker is offline after as long."""
    heartbeat_seconds: Seconds = 15.0
    """How often a worker renews the leases of its jobs and shows itself; well below the lease."""
    reconcile_interval_seconds: Seconds = 1.0
    """How often leases are checked and waiting jobs are sent out."""
    redispatch_seconds: Seconds = 10.0
    """A wake-up that no worker has followed for this long is sent again."""
    retry_backoff_seconds: Annotated[tuple[Annotated[float, Field(ge=0, allow_inf_nan=False)], ...], NoDecode] = (
        10.0,
        60.0,
        300.0,
    )
    """How long a job waits after its first, second, … failure, comma-separated; the last holds for all that follow."""
    preemption: bool = False
    """Let a waiting job pause a running one of a lower priority when there is no room: it saves a checkpoint, goes back
    to the queue and goes on from there."""
    max_queued_jobs: Annotated[int | None, Field(ge=0)] = None
    """Jobs of one project that may wait or be paused at a time, unless the project has a limit of its own. None: any
    number."""
    max_running_jobs: Annotated[int | None, Field(ge=0)] = None
    """Jobs of one project that may run at a time, unless the project has a limit of its own. None: any number."""
    cancel_grace_seconds: Seconds = 30.0
    """Time a cancelled job has to stop by itself before it is killed."""
    worker_gpus: Annotated[tuple[int, ...] | None, NoDecode] = None
    """Indices of the GPUs that this worker uses, comma-separated; empty text: none. None: all that are found."""
    worker_slots: Annotated[int | None, Field(ge=1)] = None
    """Jobs that this worker runs at a time. None: one a GPU, one on a host without."""
    plugins: str | None = None
    """Plugins besides installed ones: comma-separated `module:function`."""
    standby: Literal["auto", "on", "off"] = "auto"
    """Keep a process a slot that has loaded the trainer before its job comes: `auto` while 8 GiB of memory are free,
    `on`, `off`. There is none where there are plugins."""
    trainer_network: Literal["auto", "isolated", "host"] = "auto"
    """Network of train, fuse, quantize: `auto` none where the kernel allows that, `isolated` none or no job, `host`."""
    trainer_user: str | None = None
    """User that jobs run as: a name, `uid` or `uid:gid`. The worker needs root. None: the worker's own user."""
    trainer_nice: Annotated[int, Field(ge=0, le=19)] = 5
    """How far jobs stand back from everything else on the host when processors are short."""
    trainer_max_open_files: Annotated[int, Field(ge=256)] = 65536
    """Files that a process of a job may hold open; at most what the worker may."""
    trainer_max_processes: Annotated[int, Field(ge=64)] = 16384
    """Processes and threads of all jobs together; with `trainer_user` only."""
    trainer_max_file_bytes: Annotated[int | None, Field(gt=0)] = 1 << 40
    """Largest file that a job may write. None: no limit."""
    trainer_max_memory_bytes: Annotated[int | None, Field(gt=0)] = None
    """Address space of a process of a job; CUDA reserves far more than it uses. None: no limit."""
    owner_cache_max_bytes: Annotated[int | None, Field(ge=0)] = 200 << 30
    """Downloads and compiled code kept for each owner between jobs; the least used go first. None: no limit."""
    shared_hub_cache: Path | None = None
    """A hub cache (`…/hub`) that all owners may read and no job writes. None: each owner downloads for itself."""
    metrics_public: bool = False
    """Answer `/metrics` without a key."""
    log_level: str = "INFO"
    """Least severe messages that are logged: DEBUG, INFO, WARNING or ERROR."""

    @field_validator("trusted_model_code", "webhook_allowed_hosts", mode="before")
    @classmethod
    def _split_names(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("retry_backoff_seconds", mode="before")
    @classmethod
    def _split_seconds(cls, value: object) -> object:
        return tuple(float(part) for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("webhook_allowed_hosts")
    @classmethod
    def _check_hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for entry in value:
            if not _HOST_NAME.fullmatch(entry) and not _is_network(entry):
                raise ValueError(f"webhook_allowed_hosts takes names, addresses and CIDRs (10.0.0.0/8), not {entry!r}")
        return value

    @field_validator("worker_gpus", mode="before")
    @classmethod
    def _split_numbers(cls, value: object) -> object:
        return tuple(int(part) for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("storage_options")
    @classmethod
    def _check_options(cls, value: SecretStr) -> SecretStr:
        if value.get_secret_value():
            try:
                is_object = isinstance(json.loads(value.get_secret_value()), dict)
            except ValueError:
                is_object = False
            if not is_object:
                raise ValueError('storage_options must be one JSON object, such as {"endpoint_url": "https://…"}')
        return value

    @model_validator(mode="after")
    def _derive(self) -> "Settings":
        self.data_dir = self.data_dir.expanduser().absolute()
        self.database_url = self.database_url or f"sqlite:///{self.data_dir / 'finesmith.db'}"
        self.storage_url = self.storage_url or str(self.data_dir / "storage")
        self.redis_url = self.redis_url or f"unix://{self.valkey_socket}"
        if self.heartbeat_seconds >= self.lease_seconds:
            raise ValueError("heartbeat_seconds must be below lease_seconds")
        return self

    @property
    def valkey_socket(self) -> Path:
        """The embedded Valkey's socket: in the data folder, or in a private short one when that path is too long."""
        socket = self.data_dir / "run" / "valkey.sock"
        if len(os.fsencode(socket)) <= _LONGEST_SOCKET_PATH:
            return socket
        digest = hashlib.sha256(os.fsencode(self.data_dir)).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"finesmith-{os.getuid()}-{digest}" / "valkey.sock"


def _is_network(text: str) -> bool:
    """True for an address too, which is a network of one."""
    try:
        ipaddress.ip_network(text.strip("[]"), strict=False)
    except ValueError:
        return False
    return True
