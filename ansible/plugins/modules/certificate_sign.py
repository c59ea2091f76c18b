#!/usr/bin/python
# Apache License 2.0
from __future__ import annotations

DOCUMENTATION = r"""
module: certificate_sign
short_description: Sign a request with the authority in a directory
description:
  - Signs a certificate for servers and clients, for the names that the request has, with the program openssl.
options:
  dir:
    description: The directory of the authority.
    type: path
    required: true
  request:
    description: The request, as PEM.
    type: str
    required: true
  days:
    description: Days that the certificate is good for.
    type: int
    default: 365
author: Tenure
"""
EXAMPLES = r"""
- name: Sign a request
  tenure.cluster.certificate_sign:
    dir: /home/me/secrets/ca
    request: "{{ asked.request }}"
"""
RETURN = r"""
certificate:
  description: The certificate, as PEM.
  returned: changed
  type: str
"""

import os
import tempfile

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.tenure.cluster.plugins.module_utils.openssl import openssl

USES = "keyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth,clientAuth\nbasicConstraints=critical,CA:FALSE\n"


def main():
    module = AnsibleModule(
        argument_spec=dict(
            dir=dict(type="path", required=True),
            request=dict(type="str", required=True),
            days=dict(type="int", default=365),
        ),
        supports_check_mode=True,
    )
    if module.check_mode:
        module.exit_json(changed=True, certificate="")
    place, request = module.params["dir"], module.params["request"].encode()
    text = openssl(module, "req", "-noout", "-text", data=request)[1]
    lines = [line.strip() for line in text.splitlines()]
    names = [line for line in lines if line.startswith(("DNS:", "IP Address:"))]
    if len(names) != 1:
        module.fail_json(msg="the request names no machine")
    with tempfile.NamedTemporaryFile("w") as extensions:
        extensions.write(USES + "subjectAltName={0}\n".format(names[0].replace("IP Address:", "IP:")))
        extensions.flush()
        certificate = openssl(
            module, "x509", "-req", "-CA", os.path.join(place, "ca.pem"), "-CAkey", os.path.join(place, "ca.key"),
            "-set_serial", "0x{0}".format(os.urandom(16).hex()), "-sha256", "-days", str(module.params["days"]),
            "-extfile", extensions.name, data=request,
        )[1]
    module.exit_json(changed=True, certificate=certificate)


if __name__ == "__main__":
    main()
