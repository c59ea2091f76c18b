#!/usr/bin/python
# Apache License 2.0
from __future__ import annotations

DOCUMENTATION = r"""
module: dynamic_settings
short_description: The settings of a whole cluster, in its store
description:
  - Compares what is given with what stands in the store, and writes what differs, with C(tenurectl edit-config).
  - What is not mentioned stays. A null takes a setting away.
options:
  config_file:
    description: The agent's configuration, for tenurectl.
    type: path
    required: true
  settings:
    description: The settings.
    type: dict
    required: true
author: Tenure
"""
EXAMPLES = r"""
- name: A shorter lease
  tenure.cluster.dynamic_settings:
    config_file: /etc/tenure/15-main.yml
    settings: {ttl: 5}
"""
RETURN = r"""
settings:
  description: What stands in the store afterwards.
  returned: always
  type: dict
"""

import json
import os
import tempfile

from ansible.module_utils.basic import AnsibleModule


def merged(there, wanted):
    """What is there, with what is wanted put over it."""
    outcome = dict(there)
    for name, value in wanted.items():
        if value is None:
            outcome.pop(name, None)
        elif isinstance(value, dict):
            below = outcome.get(name)
            outcome[name] = merged(below if isinstance(below, dict) else {}, value)
        else:
            outcome[name] = value
    return outcome


def alike(one, other):
    """PostgreSQL's settings are text in the store and anything in YAML: 100 and "100" are the same."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(alike(one[name], other[name]) for name in one)
    if isinstance(one, (int, float, str)) and isinstance(other, (int, float, str)):
        return word(one) == word(other)
    return one == other


def word(value):
    text = str(value).lower()
    return {"true": "on", "false": "off", "yes": "on", "no": "off"}.get(text, text)


def pruned(settings):
    """Without what is empty: it says nothing."""
    below = {name: pruned(value) if isinstance(value, dict) else value for name, value in settings.items()}
    return {name: value for name, value in below.items() if value != {}}


def main():
    module = AnsibleModule(
        argument_spec=dict(config_file=dict(type="path", required=True), settings=dict(type="dict", required=True)),
        supports_check_mode=True,
    )
    ctl = ["tenurectl", "-c", module.params["config_file"]]
    # JSON is YAML, and what show-config prints is YAML; the module brings no parser of its own.
    code, out, err = module.run_command([*ctl, "show-config"])
    if code != 0:
        module.fail_json(msg="tenurectl show-config failed: {0}".format(err.strip()))
    try:
        import yaml
        there = yaml.safe_load(out) or {}
    except ImportError:
        module.fail_json(msg="python3-yaml is missing on this machine")
    wanted = merged(there, module.params["settings"])
    before, after = pruned(there), pruned(wanted)
    shown = dict(before=json.dumps(before, indent=1, sort_keys=True) + "\n", after=json.dumps(after, indent=1, sort_keys=True) + "\n")
    if alike(before, after):
        module.exit_json(changed=False, settings=there)
    if not module.check_mode:
        with tempfile.NamedTemporaryFile("w", suffix=".yml", delete=False) as file:
            json.dump(after, file)
        try:
            code, out, err = module.run_command([*ctl, "edit-config", "--force", "--quiet", "--replace", file.name])
        finally:
            os.unlink(file.name)
        if code != 0:
            module.fail_json(msg="tenurectl edit-config failed: {0}".format((err or out).strip()))
    module.exit_json(changed=True, settings=wanted, diff=shown)


if __name__ == "__main__":
    main()
