"""What the local hub holds: repositories, users with their rights, uploaded objects, and faults that are due."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

RepositoryKind = Literal["models", "datasets"]
Rights = Literal["read", "write"]


@dataclass
class Repository:
    """One repository; every commit holds all its files."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    summaries: dict[str, str] = field(default_factory=dict)
    """The message of each commit that was pushed, by sha, in order."""
    token: str | None = None
    """None: anyone may read, unless it is private."""
    is_private: bool = False

    @property
    def files(self) -> dict[str, bytes]:
        """What lies on the main branch."""
        return self.commits[self.branches["main"]]

    def commit(self, files: Mapping[str, bytes], *, branch: str = "main", summary: str | None = None) -> str:
        """Adds a commit that holds exactly these files; returns its sha."""
        sha = hashlib.sha1(f"{id(self)}{branch}{len(self.commits)}".encode()).hexdigest()
        self.commits[sha] = dict(files)
        self.branches[branch] = sha
        if summary is not None:
            self.summaries[sha] = summary
        return sha


@dataclass(frozen=True)
class User:
    """Who holds a token."""

    name: str
    rights: Rights = "write"
    organizations: tuple[str, ...] = ()

    def may_write(self, namespace: str) -> bool:
        """Whether the token may make and change repositories of the namespace."""
        return self.rights == "write" and namespace in (self.name, *self.organizations)


@dataclass
class Fault:
    """What goes wrong with the next requests that it is about."""

    path: str
    """A pattern that is searched in the path of the request."""
    method: str = ""
    """Empty: every method."""
    times: int = 1
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    drop_after_bytes: int | None = None
    """Reads so much of the request's body, then breaks the connection."""
    loses_answer: bool = False
    """Does what it is asked, then breaks the connection without a word."""
    delay_seconds: float = 0.0

    def is_about(self, method: str, path: str) -> bool:
        """Whether it hits this request."""
        return self.times > 0 and self.method in ("", method) and re.search(self.path, path) is not None


@dataclass
class HubState:
    """Everything that outlives a request."""

    repositories: dict[tuple[str, str], Repository] = field(default_factory=dict)
    users: dict[str, User] = field(default_factory=dict)
    """By token."""
    objects: dict[str, bytes] = field(default_factory=dict)
    """Large files by their sha256, committed or not yet."""
    parts: dict[tuple[str, int], bytes] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    downloads: list[str] = field(default_factory=list)
    """Paths of the files that were sent, in order."""
    requests: list[str] = field(default_factory=list)
    """`METHOD /path` of everything that was asked, in order."""
    bodies: list[bytes] = field(default_factory=list)
    """Every body that was received."""
    part_bytes: int | None = None
    """Larger files are asked for in parts of this size; None: always in one."""

    def add_commit(
        self,
        name: str,
        files: Mapping[str, bytes] | Path,
        *,
        kind: RepositoryKind = "models",
        branch: str = "main",
        token: str | None = None,
        is_private: bool = False,
    ) -> str:
        """Commits files, given by path or as a folder, to a repository, which is made if need be; returns the sha."""
        if isinstance(files, Path):
            files = {str(path.relative_to(files)): path.read_bytes() for path in files.rglob("*") if path.is_file()}
        repository = self.repositories.setdefault((kind, name), Repository(token=token, is_private=is_private))
        return repository.commit(files, branch=branch)

    def add_user(self, name: str, *, token: str, rights: Rights = "write", organizations: tuple[str, ...] = ()) -> None:
        """Makes a token known."""
        self.users[token] = User(name, rights, organizations)

    def inject(self, fault: Fault) -> Fault:
        """Makes the next requests that the fault is about go wrong."""
        self.faults.append(fault)
        return fault

    def pushed(self, name: str) -> Repository:
        """A model repository."""
        return self.repositories["models", name]
