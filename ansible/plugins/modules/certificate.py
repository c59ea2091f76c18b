#!/usr/bin/python
# Apache License 2.0
from __future__ import annotations

DOCUMENTATION = r"""
module: certificate
short_description: This machine's key and certificate
description:
  - Without O(certificate), looks whether C(server.pem) is there, is trusted by C(ca.pem), has the wanted names and enough days
    left. If not, makes a new key beside the old one, and returns a request.
  - With O(certificate), puts it and the new key in place, together.
options:
  dir:
    description: The directory of C(ca.pem), C(server.pem) and C(server.key).
    type: path
    required: true
  common_name:
    description: The subject.
    type: str
    required: true
  names:
    description: Names of the machine. C(DNS:) before an address makes a name of it.
    type: list
    elements: str
    default: []
  addresses:
    description: Its addresses.
    type: list
    elements: str
    default: []
  owner:
    description: Whom key and certificate belong to.
    type: str
    required: true
  group_reads:
    description: Whether the owner's group may read the key.
    type: bool
    default: false
  renew_days:
    description: With fewer days left a new one is wanted.
    type: int
    default: 30
  renew:
    description: A new one is wanted in any case.
    type: bool
    default: false
  certificate:
    description: The signed certificate, as PEM.
    type: str
author: Tenure
"""
EXAMPLES = r"""
- name: See whether a certificate is wanted
  tenure.cluster.certificate:
    dir: /etc/etcd/pki
    common_name: db1
    addresses: [10.0.0.11]
    owner: etcd
"""
RETURN = r"""
request:
  description: The request, as PEM, if a certificate is wanted.
  returned: when a certificate is wanted
  type: str
reason:
  description: Why one is wanted.
  returned: when a certificate is wanted
  type: str
"""

import ipaddress
import os
import pwd

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.tenure.cluster.plugins.module_utils.openssl import openssl, put


def lacking(module, paths, wanted):
    """Why a certificate is wanted, or nothing."""
    if module.params["renew"]:
        return "asked for"
    if not (os.path.exists(paths["pem"]) and os.path.exists(paths["key"])):
        return "there is none"
    if openssl(module, "verify", "-CAfile", paths["ca"], paths["pem"], check=False)[0] != 0:
        return "it is not trusted, or over"
    seconds = str(module.params["renew_days"] * 86400)
    if openssl(module, "x509", "-noout", "-checkend", seconds, "-in", paths["pem"], check=False)[0] != 0:
        return "it ends within {0} days".format(module.params["renew_days"])
    own = openssl(module, "x509", "-noout", "-pubkey", "-in", paths["pem"])[1]
    if own != openssl(module, "pkey", "-pubout", "-in", paths["key"])[1]:
        return "it belongs to another key"
    listed = openssl(module, "x509", "-noout", "-ext", "subjectAltName", "-in", paths["pem"])[1]
    there = set(spelled(part.strip()) for line in listed.splitlines()[1:] for part in line.split(","))
    return "its names are others" if there != wanted else None


def ask(module, paths, names):
    wanted = set(names)
    reason = lacking(module, paths, wanted)
    if reason is None:
        module.exit_json(changed=False)
    if module.check_mode:
        module.exit_json(changed=True, reason=reason)
    key = openssl(module, "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")[1]
    put(paths["next"], key, 0o600)
    request = openssl(
        module, "req", "-new", "-key", paths["next"], "-subj", "/O=Tenure/CN={0}".format(module.params["common_name"]),
        "-addext", "subjectAltName={0}".format(",".join(names)),
    )[1]
    # Nothing that is used has changed yet.
    module.exit_json(changed=False, request=request, reason=reason)


def install(module, paths):
    if not os.path.exists(paths["next"]):
        module.fail_json(msg="there is no new key in {0}".format(module.params["dir"]))
    owner = pwd.getpwnam(module.params["owner"])
    with open(paths["next"]) as file:
        key = file.read()
    put(paths["key"], key, 0o640 if module.params["group_reads"] else 0o600, owner)
    put(paths["pem"], module.params["certificate"], 0o644, owner)
    os.unlink(paths["next"])
    module.exit_json(changed=True)


def spelled(listed):
    """A name as openssl lists it, spelled as we ask for it."""
    sort, colon, name = listed.partition(":")
    return kind(name) if sort == "IP Address" else listed


def kind(address):
    """As openssl wants to be told."""
    if address.startswith("DNS:"):
        return address
    try:
        return "IP:{0}".format(ipaddress.ip_address(address))
    except ValueError:
        return "DNS:{0}".format(address)


def main():
    module = AnsibleModule(
        argument_spec=dict(
            dir=dict(type="path", required=True),
            common_name=dict(type="str", required=True),
            names=dict(type="list", elements="str", default=[]),
            addresses=dict(type="list", elements="str", default=[]),
            owner=dict(type="str", required=True),
            group_reads=dict(type="bool", default=False),
            renew_days=dict(type="int", default=30),
            renew=dict(type="bool", default=False),
            certificate=dict(type="str"),
        ),
        supports_check_mode=True,
    )
    place = module.params["dir"]
    files = dict(ca="ca.pem", pem="server.pem", key="server.key", next=".next.key")
    paths = {name: os.path.join(place, file) for name, file in files.items()}
    if module.params["certificate"] is not None:
        if module.check_mode:
            module.exit_json(changed=True)
        install(module, paths)
    # Each once, in the order given.
    names = list(dict.fromkeys(kind(name) for name in module.params["names"] + module.params["addresses"]))
    ask(module, paths, names)


if __name__ == "__main__":
    main()
