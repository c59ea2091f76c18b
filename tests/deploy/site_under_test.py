"""A site under test: machines, an inventory, the collection as it is installed, and the questions that tests ask."""
import json
import os
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path

import yaml

from lab import Lab, run, wait_for
from writer import Writer

HERE = Path(__file__).resolve().parents[2]
TOOLS = Path(os.environ["TENURE_ANSIBLE"])
PACKAGES = Path(os.environ["TENURE_PACKAGES"])


class Site:
    """`groups` maps names of groups to names of machines; everybody else is switched on and left bare."""

    def __init__(self, ground, machines, groups, settings=None, facts=None, name="site"):
        self.name = name
        self.ground, self.groups, self.facts = Path(ground), {name: list(members) for name, members in groups.items()}, facts or {}
        image = Path(os.environ["TENURE_MACHINE_IMAGE"])
        self.lab = Lab(image, ground, machines)
        self.major = next(path.name.split("_")[0].removeprefix("postgresql-") for path in sorted((image / "srv/mirror").glob("postgresql-1[0-9]_*")))
        self.instance = f"{self.major}-main"
        # A host that is shared with much else may starve its machines for longer than the default lease lasts.
        self.settings = {"tenure_ttl": 20, **(settings or {}), "tenure_package": str(next((PACKAGES / "n").glob("tenure_*.deb")))}
        self.inventory = self.ground / "inventory"
        self.inventory.mkdir()
        self.write_inventory()
        shutil.copytree(HERE / "ansible", self.ground / "collection", symlinks=True, ignore=shutil.ignore_patterns(".secrets"))
        run(TOOLS / "ansible-galaxy", "collection", "install", self.ground / "collection", "-p", self.ground / "collections", env=self.environment())
        self.plays = 0

    @classmethod
    def of_inventory(cls, ground, name, bare=()):
        """An inventory as it ships, but for the machines' addresses and where the package lies; `bare` machines are not in it yet."""
        shipped = yaml.safe_load((HERE / "ansible/inventories" / name / "hosts.yml").read_text())["all"]
        groups = {group: list(about["hosts"]) for group, about in shipped["children"].items()}
        return cls(ground, [*shipped["hosts"], *bare], groups, shipped["vars"], shipped["hosts"], name)

    def __enter__(self):
        self.lab.__enter__()
        return self

    def __exit__(self, failure, *rest):
        if failure:
            self.tell_all()
        self.lab.__exit__()

    def write_inventory(self):
        children = {name: {"hosts": {host: {} for host in members}} for name, members in self.groups.items()}
        hosts = sorted({host for members in self.groups.values() for host in members})
        about = {host: {**self.facts.get(host, {}), "ansible_host": self.lab.address(host)} for host in hosts}
        everybody = {"hosts": about, "vars": self.settings, "children": children}
        (self.inventory / "hosts.json").write_text(json.dumps({"all": everybody}, indent=1))

    def environment(self):
        common = ["-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-o", "ControlMaster=auto", "-o", "ControlPersist=60s"]
        return {
            **os.environ,
            "PATH": f"{TOOLS}:{os.environ['PATH']}",
            "ANSIBLE_COLLECTIONS_PATH": str(self.ground / "collections"),
            "ANSIBLE_HOME": str(self.ground / "home"),
            "ANSIBLE_HOST_KEY_CHECKING": "false",
            "ANSIBLE_PIPELINING": "true",
            "ANSIBLE_FORKS": "10",
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_PYTHON_INTERPRETER": "auto_silent",
            "ANSIBLE_LOCALHOST_WARNING": "false",
            "ANSIBLE_DISPLAY_SKIPPED_HOSTS": "false",
            "ANSIBLE_REMOTE_USER": "root",
            "ANSIBLE_PRIVATE_KEY_FILE": str(self.lab.key),
            # Connections that are kept are known by address, and two runs have the same addresses.
            "ANSIBLE_SSH_CONTROL_PATH_DIR": str(self.ground / "cp"),
            "ANSIBLE_SSH_ARGS": " ".join(common),
            "LC_ALL": "C.UTF-8",
        }

    def play(self, name, *arguments, fails=False, **variables):
        """Runs a playbook of the collection; returns its recap as machine → counts, and its output."""
        begun = time.monotonic()
        words = [f"-e{json.dumps(variables)}"] if variables else []
        command = [TOOLS / "ansible-playbook", "-i", self.inventory, f"tenure.cluster.{name}", *words, *arguments]
        done = subprocess.run([str(word) for word in command], cwd=self.ground, env=self.environment(), stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=900)
        self.plays += 1
        self.no_secret_in(done.stdout)
        (self.ground / f"{self.plays:02}-{name}.log").write_text(done.stdout)
        keep = os.environ.get("TENURE_DEPLOY_LOGS")
        if keep:
            Path(keep, f"{self.name}-{self.plays:02}-{name}.log").write_text(done.stdout)
        if (done.returncode != 0) != fails:
            raise AssertionError(f"the playbook {name} ended with {done.returncode}\n{done.stdout[-12000:]}")
        recap = {host: dict(re.findall(r"(\w+)=(\d+)", counts)) for host, counts in re.findall(r"^(\S+)\s+: (ok=.*)$", done.stdout, re.M)}
        changed = sum(int(counts["changed"]) for counts in recap.values())
        print(f"   {name} {' '.join(arguments)}: {changed} changes, {time.monotonic() - begun:.0f} s", flush=True)
        return changed, done.stdout

    def unchanged(self, name, *arguments, **variables):
        changed, said = self.play(name, *arguments, **variables)
        assert changed == 0, f"the second run of {name} changed something:\n" + "\n".join(
            line for line in said.splitlines() if line.startswith(("TASK", "changed:", "RUNNING")))

    def secret(self, name):
        return (self.inventory / ".secrets" / name).read_text().strip()

    def no_secret_in(self, said):
        place = self.inventory / ".secrets"
        for file in sorted(place.glob("*")) if place.is_dir() else []:
            if file.is_file():
                assert file.read_text().strip() not in said, f"the password {file.name} is in the output of a playbook"

    # --- questions ---------------------------------------------------------------------------------------------------------------

    def on(self, group):
        return self.groups[group]

    def members(self):
        """As tenurectl lists them, asked on the first machine that answers."""
        for host in self.on("postgres_cluster"):
            if self.lab.machines[host].answers:
                said = self.lab.ssh(host, "tenurectl list -f json", check=False)
                if said.startswith("["):
                    return json.loads(said)
        return []

    def running(self, host, *names):
        """Processes whose names contain one of these."""
        return self.lab.ssh(host, f"for name in {' '.join(names)}; do pgrep -l $name; done; true").strip()

    def sql(self, host, statement):
        return self.lab.ssh(host, f"cd /; runuser -u postgres -- psql -XAtc '{statement}'").strip()

    def store_leader(self):
        """The machine whose etcd leads, asked on those that answer."""
        for host in self.on("etcd_cluster"):
            if self.lab.machines[host].answers:
                said = self.lab.ssh(host, "set -a; . /etc/default/etcdctl; etcdctl endpoint status -w json", check=False)
                if not said.startswith("["):
                    continue
                status = json.loads(said)[0]["Status"]
                if status["header"]["member_id"] == status["leader"]:
                    return host
        return None

    def leader(self):
        leaders = [member["Member"] for member in self.members() if member["Role"] == "Leader"]
        return leaders[0] if len(leaders) == 1 else None

    def healthy(self, names=None, seconds=120):
        """One leader, everybody else streaming; returns the leader."""
        names = sorted(names or self.on("postgres_cluster"))

        def well():
            members = self.members()
            states = {member["Member"]: member["State"] for member in members}
            return (sorted(states) == names and set(states.values()) <= {"running", "streaming"}
                    and sum(member["State"] == "streaming" for member in members) == len(names) - 1 and self.leader())

        return wait_for(f"a healthy cluster of {', '.join(names)}", well, seconds)

    def writer(self, name="writer", port=5000, password=None, hosts=None):
        """Started, and known to write."""
        hosts = hosts or [self.lab.address(host) for host in self.on("balancers")]
        writer = Writer(name, hosts, port, password or self.secret("superuser")).start()
        wait_for("the writer to write", writer.goes_on)
        return writer

    def statistics(self, host):
        """HAProxy's word on each server of each service."""
        said = self.lab.ssh(host, "python3 - <<'TEXT'\nimport socket\ns = socket.socket(socket.AF_UNIX); s.connect('/run/haproxy/admin.sock')\n"
                            "s.sendall(b'show stat\\n'); print(b''.join(iter(lambda: s.recv(65536), b'')).decode())\nTEXT")
        rows = [line.split(",") for line in said.splitlines() if line and not line.startswith("#")]
        return {(row[0], row[1]): row[17] for row in rows if len(row) > 17}

    def told_by_balancer(self, host):
        """What HAProxy says of each server, with the answers of the checks, and what the members say themselves."""
        rows = [f"{service} {server}: {status}" for (service, server), status in self.statistics(host).items()]
        return "; ".join(rows) + "\n" + self.lab.ssh(host, "cat /etc/haproxy/haproxy.cfg | grep -v auth; tenurectl list; journalctl -u haproxy -n 30 --no-pager", check=False)

    def open_from_here(self, host, port):
        """Whether a client outside of the cluster gets a connection."""
        try:
            socket.create_connection((self.lab.address(host), port), timeout=3).close()
            return True
        except OSError:
            return False

    def tell_all(self):
        for host, machine in self.lab.machines.items():
            journal = machine.root / "var/log/journal"
            print(f"---- {host}", flush=True)
            if journal.is_dir():
                print(run("journalctl", "--directory", journal, "--lines=60", "--no-pager", "--output=short-precise", check=False), flush=True)
