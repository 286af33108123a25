"""Closes a cage around this process, then becomes the program in it: limits, no network, another user, no new rights.

`python -I -S trainer_core/cage.py [--option=value …] -- /path/to/program …`: standard library only, about 20 ms.
Between fork and exec of a process with threads none of this would be safe. Options: `nice`, `oom` (oom_score_adj),
`umask` (octal), `core`, `open-files`, `processes`, `file-bytes`, `memory-bytes` (limits, lowered to what is allowed),
`user` (uid:gid), `network` (`host`; `auto`: none where the kernel allows that; `isolated`: none, or no program).
Exit status 125 when the cage cannot be closed, 127 when the program is not there; else the program's own.
"""

import _socket
import ctypes
import fcntl
import os
import resource
import struct
import sys

EXIT_NOT_CLOSED = 125
"""The cage could not be closed; the reason is on stderr."""
EXIT_NOT_FOUND = 127

_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_SIOCGIFFLAGS = 0x8913
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1
_KEPT_CAPABILITIES = frozenset({0, 1, 3, 4, 5, 14, 23})
"""Of a root's: chown, dac_override, fowner, fsetid, kill, ipc_lock, sys_nice. What enters other namespaces or other
processes, loads modules or makes devices goes."""
_MAX_CAPABILITIES = 64
_LIMITS = {
    "core": resource.RLIMIT_CORE,
    "open-files": resource.RLIMIT_NOFILE,
    "processes": resource.RLIMIT_NPROC,
    "file-bytes": resource.RLIMIT_FSIZE,
    "memory-bytes": resource.RLIMIT_AS,
}


class CageError(Exception):
    """The cage cannot be closed here; the program is not started."""


def close_cage(options: dict[str, str]) -> None:
    """Applies the options to this process, for good. Raises CageError."""
    if "umask" in options:
        os.umask(int(options["umask"], 8))
    if "nice" in options:
        os.nice(int(options["nice"]))
    if "oom" in options:
        _write("/proc/self/oom_score_adj", options["oom"])
    for name, number in _LIMITS.items():
        if name in options:
            _limit(number, int(options[name]))
    network = options.get("network", "host")
    if network != "host":
        leave_network(is_required=network == "isolated")
        # Only now: they are what it takes to leave the network.
        _drop_capabilities()
    if "user" in options:
        _become(options["user"])
    _call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def leave_network(*, is_required: bool) -> None:
    """Gives this process a network of its own, in which there is the loopback and nothing else.

    Where the kernel refuses, it raises CageError if that is required, and else says so on stderr.
    """
    uid, gid = os.geteuid(), os.getegid()
    try:
        try:
            _call("unshare", _CLONE_NEWNET)
        except PermissionError:
            _call("unshare", _CLONE_NEWUSER | _CLONE_NEWNET)
            # Without these the process would be nobody to the files that it owns.
            _write("/proc/self/setgroups", "deny")
            _write("/proc/self/uid_map", f"{uid} {uid} 1")
            _write("/proc/self/gid_map", f"{gid} {gid} 1")
        _raise_loopback()
    except OSError as error:
        if is_required:
            raise CageError(
                f"FINESMITH_TRAINER_NETWORK=isolated: the kernel gives no network namespace ({error.strerror}); "
                "allow user namespaces or CAP_SYS_ADMIN, or set it to auto or host"
            ) from error
        _say(f"this step keeps the host's network: the kernel gives no network namespace ({error.strerror})")


def _raise_loopback() -> None:
    """Gloo and NCCL meet on it."""
    probe = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM)
    try:
        request = struct.pack("16sh22x", b"lo", 0)
        flags = struct.unpack("16sh22x", fcntl.ioctl(probe.fileno(), _SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(probe.fileno(), _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", flags | _IFF_UP))
    finally:
        probe.close()


def _limit(number: int, value: int) -> None:
    hard = resource.getrlimit(number)[1]
    allowed = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(number, (allowed, allowed))


def _drop_capabilities() -> None:
    """A root that keeps all of them could walk back into the host's network. Nothing to do for any other user."""
    if os.geteuid() != 0:
        return
    for capability in range(_MAX_CAPABILITIES):
        if capability not in _KEPT_CAPABILITIES:
            try:
                _call("prctl", _PR_CAPBSET_DROP, capability, 0, 0, 0)
            except OSError:
                # The first number that the kernel does not know, or nothing may be dropped.
                return


def _become(user: str) -> None:
    uid, gid = (int(part) for part in user.split(":"))
    if (os.geteuid(), os.getegid()) == (uid, gid):
        return
    try:
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
        _call("prctl", _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    except PermissionError as error:
        raise CageError(
            f"FINESMITH_TRAINER_USER: this process may not become user {uid}, group {gid}; start the worker as root "
            "or with CAP_SETUID and CAP_SETGID"
        ) from error


def _call(name: str, *arguments: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _write(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def main(arguments: list[str]) -> int:
    """Becomes the program; returns an exit status only when that fails."""
    if "--" not in arguments or arguments[-1] == "--":
        _say("usage: python -I -S trainer_core/cage.py [--option=value …] -- /path/to/program [argument…]")
        return 2
    end = arguments.index("--")
    options = dict(option.removeprefix("--").split("=", 1) for option in arguments[:end])
    argv = arguments[end + 1 :]
    try:
        close_cage(options)
        os.execv(argv[0], argv)
    except FileNotFoundError:
        _say(f"there is no program {argv[0]!r}")
        return EXIT_NOT_FOUND
    except (CageError, OSError) as error:
        _say(f"the program was not started: {error}")
        return EXIT_NOT_CLOSED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
