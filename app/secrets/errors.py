"""Errors of named secrets.

SecretError              answered to whoever asked, never fatal
├── SecretNotFound       get, delete: the project has no secret of that name
├── InvalidSecret        put: name or value cannot be
└── TooManySecrets       put: the project has as many as it may
"""


class SecretError(Exception):
    """Base of what the service of secrets raises on purpose."""

    code = "secret_error"

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class SecretNotFound(SecretError):
    code = "secret_not_found"

    def __init__(self, name: str) -> None:
        super().__init__(f"no secret {name!a}", param="name")


class InvalidSecret(SecretError):
    code = "invalid_value"


class TooManySecrets(SecretError):
    code = "too_many_secrets"
