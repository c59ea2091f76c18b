#!/usr/bin/python
# Apache License 2.0
from __future__ import annotations

DOCUMENTATION = r"""
module: certificate_authority
short_description: A small certificate authority in a directory
description:
  - Makes C(ca.key) and C(ca.pem) once, with the program openssl. Never writes over them.
options:
  dir:
    description: The directory.
    type: path
    required: true
  name:
    description: What the authority is called.
    type: str
    required: true
  days:
    description: Days that it is good for.
    type: int
    default: 3650
author: Tenure
"""
EXAMPLES = r"""
- name: Have a certificate authority
  tenure.cluster.certificate_authority:
    dir: /home/me/secrets/ca
    name: main
"""
RETURN = r"""#"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.tenure.cluster.plugins.module_utils.openssl import openssl


def main():
    module = AnsibleModule(
        argument_spec=dict(
            dir=dict(type="path", required=True),
            name=dict(type="str", required=True),
            days=dict(type="int", default=3650),
        ),
        supports_check_mode=True,
    )
    place = module.params["dir"]
    key, certificate = os.path.join(place, "ca.key"), os.path.join(place, "ca.pem")
    if os.path.exists(key) and os.path.exists(certificate):
        module.exit_json(changed=False)
    if os.path.exists(key) or os.path.exists(certificate):
        module.fail_json(msg="{0} holds only one of ca.key and ca.pem: put the other one back".format(place))
    if module.check_mode:
        module.exit_json(changed=True)
    os.umask(0o077)
    os.makedirs(place, exist_ok=True)
    # The certificate comes last: both are there, or the next run is told.
    openssl(module, "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", key)
    subject = "/O=Tenure/CN={0} authority".format(module.params["name"].replace("/", "_"))
    openssl(
        module, "req", "-x509", "-new", "-key", key, "-sha256", "-days", str(module.params["days"]), "-subj", subject,
        "-addext", "basicConstraints=critical,CA:TRUE,pathlen:0", "-addext", "keyUsage=critical,keyCertSign,cRLSign",
        "-out", certificate,
    )
    module.exit_json(changed=True)


if __name__ == "__main__":
    main()
