# Apache License 2.0
"""What the modules about certificates share: openssl, as a program, and files that are replaced as a whole."""
from __future__ import annotations

import os
import tempfile


def openssl(module, *arguments, data=None, check=True):
    """Runs openssl; returns its exit code and what it printed."""
    code, out, err = module.run_command(["openssl", *arguments], data=data, binary_data=True)
    if check and code != 0:
        module.fail_json(msg="openssl {0} failed: {1}".format(arguments[0], err.strip()))
    return code, out


def put(path, text, mode, owner=None):
    """Replaces a file as a whole; it is never there with another mode or half."""
    handle, temporary = tempfile.mkstemp(dir=os.path.dirname(path))
    try:
        os.fchmod(handle, mode)
        if owner is not None:
            os.fchown(handle, owner.pw_uid, owner.pw_gid)
        with os.fdopen(handle, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
