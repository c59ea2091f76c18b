#!/usr/bin/python
# Apache License 2.0
from __future__ import annotations

DOCUMENTATION = r"""
module: preflight
short_description: Everything about a machine that would be in the way of a cluster
description:
  - Looks, changes nothing, and names all that is wrong at once.
options:
  address:
    description: The address by which others shall reach this machine.
    type: str
    required: true
  listeners:
    description: Ports that will be wanted, each with the programs that may have it already (C(port), C(by)).
    type: list
    elements: dict
    required: true
  data_dir:
    description: Where data will be.
    type: path
    required: true
  disk_mb:
    description: Megabytes that must be free there.
    type: int
    required: true
  releases:
    description: Releases of Debian that are known to work.
    type: list
    elements: str
    required: true
  controller_time:
    description: The controller's clock, as seconds since 1970.
    type: float
    required: true
  watchdog:
    description: Whether there must be a watchdog device.
    type: bool
    default: false
author: Tenure
"""
EXAMPLES = r"""
- name: Look at this machine
  tenure.cluster.preflight:
    address: 10.0.0.11
    listeners: [{port: 5432, by: [postgres]}]
    data_dir: /var/lib
    disk_mb: 2048
    releases: [bookworm]
    controller_time: "{{ now().timestamp() }}"
"""
RETURN = r"""
problems:
  description: One sentence for each thing that is wrong.
  returned: always
  type: list
  elements: str
warnings_found:
  description: One sentence for each thing that may become a trouble.
  returned: always
  type: list
  elements: str
clock_offset:
  description: Seconds by which this clock is ahead of the controller's, and the time that it took to ask.
  returned: always
  type: float
"""

import ipaddress
import os
import re
import socket
import sys
import time

from ansible.module_utils.basic import AnsibleModule


def release():
    try:
        with open("/etc/os-release") as file:
            words = dict(line.rstrip().split("=", 1) for line in file if "=" in line)
    except OSError:
        words = {}
    return words.get("ID", "").strip('"'), words.get("VERSION_CODENAME", "").strip('"')


def own_addresses(module):
    code, out, err = module.run_command(["ip", "-oneline", "address", "show"])
    return set(re.findall(r"inet6? ([0-9a-fA-F.:]+)", out)) if code == 0 else None


def listeners(module):
    """Ports that are taken, with the programs that have them."""
    code, out, err = module.run_command(["ss", "-Hlntp"])
    taken = {}
    for line in out.splitlines() if code == 0 else []:
        words = line.split()
        if len(words) >= 4:
            port = int(words[3].rsplit(":", 1)[1])
            taken.setdefault(port, set()).update(re.findall(r'\("([^"]+)"', line))
    return taken


def look(module, problems, warnings):
    distribution, codename = release()
    if distribution not in ("debian", "ubuntu"):
        problems.append("{0} is not Debian or Ubuntu: these roles install with apt".format(distribution or "this system"))
    elif distribution == "debian" and codename not in module.params["releases"]:
        warnings.append("Debian {0} has not been tried".format(codename))
    if sys.version_info < (3, 9):
        problems.append("Python {0}.{1} is too old: 3.9".format(*sys.version_info[:2]))
    if not os.path.isdir("/run/systemd/system"):
        problems.append("systemd is not process 1")

    address = module.params["address"]
    try:
        own = own_addresses(module)
        resolved = set(item[4][0] for item in socket.getaddrinfo(address, None))
        if own is not None and not resolved & own:
            problems.append("{0} is no address of this machine ({1}): set node_address".format(address, ", ".join(sorted(own))))
        if all(ipaddress.ip_address(item).is_loopback for item in resolved):
            problems.append("others cannot reach {0}: set node_address".format(address))
    except OSError as error:
        problems.append("the address {0} is not to be found: {1}".format(address, error))

    taken = listeners(module)
    for listener in module.params["listeners"]:
        port, by = int(listener["port"]), set(listener["by"])
        strangers = taken.get(port, set()) - by
        if port in taken and strangers:
            problems.append("port {0} is taken by {1}; it is wanted for {2}".format(port, ", ".join(sorted(strangers)), listener["by"][0]))

    place = os.statvfs(module.params["data_dir"])
    free = place.f_bavail * place.f_frsize // 1048576
    if free < module.params["disk_mb"]:
        problems.append("{0} MB are free in {1}, and {2} are wanted".format(free, module.params["data_dir"], module.params["disk_mb"]))
    if module.params["watchdog"] and not os.path.exists("/dev/watchdog"):
        problems.append("there is no /dev/watchdog, and tenure_watchdog is required")
    code, out, err = module.run_command(["timedatectl", "show", "--property=NTPSynchronized", "--value"])
    if code == 0 and out.strip() == "no":
        warnings.append("nothing keeps this clock right (systemd-timesyncd or chrony)")


def main():
    module = AnsibleModule(
        argument_spec=dict(
            address=dict(type="str", required=True),
            listeners=dict(type="list", elements="dict", required=True),
            data_dir=dict(type="path", required=True),
            disk_mb=dict(type="int", required=True),
            releases=dict(type="list", elements="str", required=True),
            controller_time=dict(type="float", required=True),
            watchdog=dict(type="bool", default=False),
        ),
        supports_check_mode=True,
    )
    asked_at = time.time()
    problems, warnings = [], []
    look(module, problems, warnings)
    module.exit_json(changed=False, problems=problems, warnings_found=warnings, clock_offset=asked_at - module.params["controller_time"])


if __name__ == "__main__":
    main()
