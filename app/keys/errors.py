"""Errors of the service of keys.

JobStoreError
├── KeyNotFound          revoke, rotate: there is no such key
└── KeyNotRotatable      rotate: the key is worthless already, or was replaced before
ValueError
└── InvalidKeyRequest    create, rotate: owner, name, scopes, limits or times cannot be; the message says which
"""

from app.jobs.errors import JobStoreError


class KeyNotFound(JobStoreError):
    code = "key_not_found"


class KeyNotRotatable(JobStoreError):
    code = "key_not_rotatable"


class InvalidKeyRequest(ValueError):
    pass
