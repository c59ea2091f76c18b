"""Machines with real systemd, for the playbooks: systemd-nspawn on a private copy of a bare image, on one bridge, with power that
can go. Everything lives in the namespaces of this process and ends with it; its control groups are removed by scripts/test-deploy."""
import os
import shutil
import subprocess
import threading
import time
from pathlib import Path

NETWORK = "10.98.0."
HUB = NETWORK + "1"


def run(*command, check=True, **options):
    """A command in bounded time; its output is returned."""
    options.setdefault("timeout", 120)
    options.setdefault("stdin", subprocess.DEVNULL)
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
    if check and done.returncode != 0:
        raise RuntimeError(f"{command}: exit code {done.returncode}\n{done.stdout}")
    return done.stdout


def wait_for(what, condition, seconds=90, otherwise=lambda: ""):
    """Asks until it is so; the answer is returned. `otherwise` tells more about what was seen instead."""
    until = time.monotonic() + seconds
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > until:
            raise TimeoutError(f"waited {seconds} s for {what} {otherwise()}".rstrip())
        time.sleep(0.2)


def control_groups(name):
    """The group of version 2, and systemd's named one where the host has both."""
    found = []
    for line in Path("/proc/mounts").read_text().splitlines():
        _, place, kind, options = line.split()[:4]
        if kind == "cgroup2" or (kind == "cgroup" and "name=systemd" in options):
            found.append((kind != "cgroup2", Path(place) / name))
    return [path for _, path in sorted(found)]


class Machine:
    def __init__(self, index, name, image, ground, key):
        self.name, self.address = name, f"{NETWORK}{10 + index}"
        self.directory, self.space, self.cable = ground / name, f"m{index}", f"cable{index}"
        self.groups = control_groups(f"tenure-{os.environ['TENURE_MACHINE_RUN']}-{name}")
        self.supervisor, self.wanted, self.out_of_reach = None, False, False
        self.root = self.directory / "root"
        for part in ("root", "upper", "work"):
            (self.directory / part).mkdir(parents=True)
        layers = f"lowerdir={image},upperdir={self.directory}/upper,workdir={self.directory}/work"
        run("mount", "-t", "overlay", "-o", layers, "overlay", self.root)
        (self.root / "etc/hostname").write_text(name + "\n")
        (self.root / "etc/machine-id").write_text(f"{0x7e40 + index:032x}\n")
        (self.root / "etc/hosts").write_text(f"127.0.0.1 localhost\n{self.address} {name}\n")
        ssh = self.root / "root/.ssh"
        ssh.mkdir(mode=0o700, exist_ok=True)
        shutil.copy(f"{key}.pub", ssh / "authorized_keys")
        run("ip", "netns", "add", self.space)
        run("ip", "link", "add", self.cable, "type", "veth", "peer", "name", "eth0", "netns", self.space)
        self.reconnect()
        for words in ("link set lo up", "link set eth0 up", f"address add {self.address}/24 dev eth0"):
            run("ip", "-n", self.space, *words.split())

    @property
    def answers(self):
        return self.wanted and not self.out_of_reach

    def cut(self):
        """Its packets vanish; it still sees a link."""
        self.out_of_reach = True
        run("ip", "link", "set", self.cable, "nomaster")

    def reconnect(self):
        self.out_of_reach = False
        run("ip", "link", "set", self.cable, "up", "master", "hub")

    def freeze(self):
        """Everything on it stops, and knows nothing of it."""
        self.out_of_reach = True
        (self.groups[0] / "cgroup.freeze").write_text("1")
        wait_for(f"{self.name} to be frozen", lambda: "frozen 1" in (self.groups[0] / "cgroup.events").read_text())

    def thaw(self):
        self.out_of_reach = False
        (self.groups[0] / "cgroup.freeze").write_text("0")

    def power_on(self):
        for group in self.groups:
            group.mkdir(parents=True, exist_ok=True)
        self.wanted = True
        self.supervisor = threading.Thread(target=self._supervise, name=f"power of {self.name}", daemon=True)
        self.supervisor.start()

    def _supervise(self):
        """One boot after the other, until the power goes."""
        capabilities = "CAP_NET_ADMIN,CAP_IPC_LOCK,CAP_BPF"
        command = [
            "unshare", "--pid", "--fork", "--kill-child=KILL", "--mount-proc", "--", "systemd-nspawn", "--quiet",
            f"--directory={self.root}", f"--machine={self.name}", "--boot", "--register=no", "--keep-unit",
            f"--network-namespace-path=/run/netns/{self.space}", f"--capability={capabilities}", "--system-call-filter=bpf",
            "--resolv-conf=off", "--timezone=off", "--link-journal=no",
        ]
        # A process of its own enters the groups: threads of this one must not.
        enter = "".join(f"echo $$ >{group}/cgroup.procs; " for group in self.groups)
        with open(self.directory / "console.log", "ab") as log:
            while self.wanted:
                boot = subprocess.Popen(
                    ["sh", "-c", enter + 'exec "$@"', "sh", *command], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                    env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
                )
                # systemd-nspawn's way to say that process 1 wants a reboot.
                if boot.wait() != 133:
                    return

    def power_off(self):
        """The power goes: nobody here gets another instruction."""
        self.wanted = False
        if not self.groups[0].exists():
            return
        (self.groups[0] / "cgroup.kill").write_text("1")
        wait_for(f"{self.name} to be off", lambda: "populated 0" in (self.groups[0] / "cgroup.events").read_text())
        self.supervisor.join()
        for group in self.groups:
            for directory, _, _ in os.walk(group, topdown=False):
                os.rmdir(directory)


class Lab:
    """As many machines as are named, switched on; the hub is this process's own network."""

    def __init__(self, image, ground, names):
        self.ground = Path(ground)
        self.key = self.ground / "key"
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.key)
        for words in ("link set lo up", "link add hub type bridge", "link set hub up", f"address add {HUB}/24 dev hub"):
            run("ip", *words.split())
        self.machines = {name: Machine(index, name, image, self.ground, self.key) for index, name in enumerate(names, 1)}
        # The operator has names for them; they need none for each other.
        names = self.ground / "hosts"
        names.write_text("127.0.0.1 localhost\n" + "".join(f"{machine.address} {name}\n" for name, machine in self.machines.items()))
        run("mount", "--bind", names, "/etc/hosts")

    def __enter__(self):
        for machine in self.machines.values():
            machine.power_on()
        for machine in self.machines.values():
            self.until_reached(machine.name)
        return self

    def __exit__(self, *_):
        for machine in self.machines.values():
            machine.power_off()

    def address(self, name):
        return self.machines[name].address

    def ssh(self, name, line, check=True, timeout=120):
        options = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "ConnectTimeout=5", "-o", "LogLevel=ERROR"]
        return run("ssh", "-i", self.key, *options, f"root@{self.address(name)}", line, check=check, timeout=timeout)

    def until_reached(self, name):
        wait_for(f"{name} to be reached", lambda: "here" in self.ssh(name, "systemctl is-system-running; echo here", check=False))
