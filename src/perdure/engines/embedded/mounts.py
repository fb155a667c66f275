"""On what kind of file system a path is; network ones are refused, because their locks cannot be trusted."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from perdure.errors import NetworkFileSystem

# fmt: off
NETWORK = frozenset({
    "9p", "afs", "afpfs", "beegfs", "ceph", "cifs", "coda", "davfs", "fuse.ceph",
    "fuse.gcsfuse", "fuse.glusterfs", "fuse.mfs", "fuse.rclone", "fuse.s3fs", "fuse.sshfs", "gfs2",
    "glusterfs", "lustre", "ncpfs", "nfs", "nfs4", "ocfs2", "smb3", "smbfs",
})
# fmt: on
"""As the kernel calls them; 9p is also a host's folder in a virtual machine, and Windows's disks in WSL."""


def refuse_network_file_system(path: Path) -> None:
    kind = file_system_of(path)
    if kind in NETWORK:
        raise NetworkFileSystem(str(path), kind)


def file_system_of(path: Path) -> str | None:
    """None where the system does not say (all but Linux)."""
    if sys.platform != "linux":
        return None
    try:
        mounts = Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape")
    except OSError:
        return None
    return kind_in(mounts, os.path.realpath(path))


def kind_in(mounts: str, path: str) -> str | None:
    """The file system of a path by the text of `/proc/self/mountinfo`; of two mounts on one place the later is seen."""
    best, kind = "", None
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        place = _unescape(before.split(" ")[4])
        if len(place) >= len(best) and (path == place or path.startswith(place.rstrip("/") + "/")):
            best, kind = place, after.split(" ")[0]
    return kind


def _unescape(text: str) -> str:
    for code, character in ((r"\040", " "), (r"\011", "\t"), (r"\012", "\n"), (r"\134", "\\")):
        text = text.replace(code, character)
    return text
