"""What `make test-deploy` shows, in parts. Each part begins with bare machines and ends with everything switched off."""
import json
import os
import sys
import tempfile
import time
import traceback
from pathlib import Path

import psycopg

from lab import HUB, NETWORK, wait_for
from setups import SETUPS
from site_under_test import PACKAGES, Site

THREE = ["db1", "db2", "db3"]
EVERYTHING = {"etcd_cluster": THREE, "postgres_cluster": THREE, "balancers": THREE}
# Nothing acknowledged may be missing then, whatever fails.
SYNCHRONOUS = {"tenure_synchronous_mode": "on"}
FLOATING = f"{NETWORK}100"
REPORT = []


def note(sentence):
    REPORT.append(sentence)
    print(f"   {sentence}", flush=True)


def another_leads(site, writer, former, fault, moment):
    """Somebody else leads, and the writer writes there."""
    leader = wait_for(f"another leader after {fault}", lambda: (site.leader() or former) != former and site.leader(), 120)
    since = time.monotonic()
    wait_for(f"the writer to go on after {fault}", lambda: writer.moments[-1] > since, 90)
    note(f"{fault}: the writer waited {writer.gap_since(moment):.1f} s at most")
    return leader


def close(writer):
    writer.end()
    missing = writer.missing()
    note(f"{len(writer.acknowledged)} rows acknowledged, {len(missing)} of them missing, {writer.errors} errors")
    assert not missing, f"acknowledged rows are missing: {missing[:20]}"


def base(ground):
    """From nothing: the site, twice; a writer through HAProxy, a switchover, the loss of the primary's machine, and of the etcd leader's."""
    with Site(ground, THREE, EVERYTHING, SYNCHRONOUS) as site:
        site.play("site")
        leader = site.healthy()
        site.unchanged("site")
        writer = site.writer()
        moment = time.monotonic()
        site.play("switchover")
        leader = another_leads(site, writer, leader, "a switchover", moment)

        moment = time.monotonic()
        site.lab.machines[leader].power_off()
        leader_after = another_leads(site, writer, leader, "power-off of the primary's machine, with an etcd member and a balancer", moment)
        site.lab.machines[leader].power_on()
        site.lab.until_reached(leader)
        assert site.healthy() == leader_after, "whoever comes back follows"

        store = site.store_leader()
        moment = time.monotonic()
        former = site.leader()
        site.lab.machines[store].power_off()
        wait_for("another leader of the store", lambda: site.store_leader() not in (None, store))
        if store == former:
            another_leads(site, writer, former, "power-off of the etcd leader's machine, which was the primary's too", moment)
        else:
            since = time.monotonic()
            wait_for("the writer to go on", lambda: writer.moments[-1] > since)
            note(f"power-off of the etcd leader's machine: the writer waited {writer.gap_since(moment):.1f} s at most")
        site.lab.machines[store].power_on()
        site.lab.until_reached(store)
        site.healthy()
        close(writer)


def settings(ground):
    """Changed settings, first shown, then brought, then in force; a new version of Tenure; new certificates; new passwords."""
    with Site(ground, THREE, EVERYTHING, SYNCHRONOUS) as site:
        site.play("site")
        site.healthy()
        writer = site.writer()
        site.settings["tenure_parameters"] = {"max_connections": 120, "work_mem": "8MB"}
        site.write_inventory()
        said = site.play("config", "--check", "--diff")[1]
        assert '+   "max_connections": 120' in said, said
        said = site.play("config")[1]
        assert "max_connections: 100->120" in said, "what waits for a restart is told"
        site.play("config", restart=True)
        site.healthy()
        for host in THREE:
            wait_for("the settings to be in force", lambda host=host: site.sql(host, "show max_connections") == "120")
            assert site.sql(host, "show work_mem") == "8MB"
        site.unchanged("config")

        leader = site.healthy()
        before = {host: site.sql(host, "select pg_postmaster_start_time()") for host in THREE}
        moment = time.monotonic()
        site.play("update", tenure_package=str(next((PACKAGES / "next").glob("tenure_*.deb"))))
        note(f"a new version of Tenure on every machine: the writer waited {writer.gap_since(moment):.1f} s at most")
        assert {host: site.sql(host, "select pg_postmaster_start_time()") for host in THREE} == before, "PostgreSQL ran on"
        assert site.healthy() == leader, "nobody handed over"
        versions = {site.lab.ssh(host, "dpkg-query -W -f '${Version}' tenure") for host in THREE}
        assert len(versions) == 1, versions

        old = site.lab.ssh("db1", "cat /etc/etcd/pki/server.pem /etc/tenure/pki/server.pem")
        moment = time.monotonic()
        site.play("rotate_certificates")
        note(f"new certificates everywhere: the writer waited {writer.gap_since(moment):.1f} s at most")
        assert site.lab.ssh("db1", "cat /etc/etcd/pki/server.pem /etc/tenure/pki/server.pem") != old
        assert site.healthy() == leader

        old = site.secret("superuser")
        moment = time.monotonic()
        site.play("rotate_passwords")
        note(f"new passwords: the writer waited {writer.gap_since(moment):.1f} s at most")
        assert site.secret("superuser") != old
        assert site.healthy() == leader
        writer.password = site.secret("superuser")
        close(writer)


def nodes(ground):
    """Two members grow to three, and the third one leaves again; preflight names what is in the way."""
    groups = {"etcd_cluster": THREE, "postgres_cluster": ["db1", "db2"], "balancers": ["db1"]}
    with Site(ground, THREE, groups) as site:
        site.play("site")
        site.healthy()
        writer = site.writer()
        untouched = [site.lab.ssh(host, "sha256sum /etc/tenure/*.yml") for host in ("db1", "db2")]
        site.groups["postgres_cluster"] = THREE
        site.write_inventory()

        site.lab.ssh("db3", "systemd-run --unit=stranger python3 -m http.server 5432")
        site.settings["preflight_disk_mb"] = 10**9
        site.write_inventory()
        said = site.play("add_node", node="db3", fails=True)[1]
        assert "port 5432 is taken by python3" in said and "MB are free" in said, said
        site.lab.ssh("db3", "systemctl stop stranger")
        del site.settings["preflight_disk_mb"]
        site.write_inventory()

        site.play("add_node", node="db3")
        site.healthy()
        assert [site.lab.ssh(host, "sha256sum /etc/tenure/*.yml") for host in ("db1", "db2")] == untouched
        wait_for("the balancer to send readers to the new member", lambda: site.statistics("db1").get(("replicas", "db3"), "").startswith("UP"),
                 otherwise=lambda: site.told_by_balancer("db1"))
        site.play("remove_node", node="db3")
        site.groups["postgres_cluster"] = ["db1", "db2"]
        site.write_inventory()
        site.healthy()
        assert ("replicas", "db3") not in site.statistics("db1")
        site.unchanged("site")
        close(writer)


def drills(ground):
    """Every drill that ships, then everything is removed and the data is still there."""
    with Site(ground, THREE, EVERYTHING, {**SYNCHRONOUS, "tenure_drills": ["postmaster", "agent"]}) as site:
        site.play("site")
        site.healthy()
        said = site.play("drill", what="host", backup_checked=True, fails=True)[1]
        assert "does not allow a drill of host" in said and "a guard has refused" in said, said
        reports = Path(ground, "reports")
        for what in ("switchover", "postmaster", "agent"):
            site.play("drill", what=what, backup_checked=True, report=str(reports))
            told = json.loads((reports / "report.json").read_text())
            note(f"drill of {what}: {told['gap']['ms'] if told['gap'] else 0} ms without an acknowledged row")
            assert told["good"], told
            site.healthy()
        site.unchanged("site")
        said = site.play("remove", fails=True)[1]
        assert "say -e remove=main" in said
        site.play("remove", remove="main")
        for host in THREE:
            assert site.lab.ssh(host, f"cat /var/lib/postgresql/{site.major}/main/PG_VERSION").strip() == site.major
            left = site.running(host, "tenure", "postgres", "etcd", "haproxy")
            assert not left, f"{host}: {left}"


def around(ground):
    """What may stand around a cluster: backups, an address that moves, a pooler, monitoring, a firewall; and back to a point in time."""
    groups = {"etcd_cluster": ["store"], "postgres_cluster": ["db1", "db2"], "balancers": ["db1", "db2"], "backup": ["store"], "monitoring": ["store"]}
    password = "secret-of-the-tests"
    settings = {
        "tenure_superuser_password": password, "keepalived_address": f"{FLOATING}/24", "keepalived_interface": "eth0", "monitoring_enabled": True,
        "pgbouncer_enabled": True, "pgbouncer_users": {"postgres": password}, "firewall_enabled": True, "firewall_clients": [f"{HUB}/32"],
    }
    with Site(ground, ["db1", "db2", "store"], groups, settings) as site:
        site.play("site")
        site.healthy()
        site.unchanged("site")

        ask = "python3 -c 'import urllib.request as u; print(u.urlopen(\"http://127.0.0.1:9090/api/v1/query?query={}\").read().decode())'"
        for question in ("patroni_postgres_running", "pg_up"):
            wait_for(f"Prometheus to know {question} of both members",
                     lambda question=question: site.lab.ssh("store", ask.format(question), check=False).count(',"1"]') == 2)
        reached = [(host, port) for host, port in (("db1", 5432), ("db2", 8008), ("store", 2379), ("store", 2380), ("store", 8432)) if site.open_from_here(host, port)]
        assert not reached, f"open for everybody: {reached}"
        with psycopg.connect(f"host={site.lab.address('db2')} port=6432 user=postgres dbname=postgres sslmode=require", password=password) as pooled:
            assert pooled.execute("select pg_is_in_recovery()").fetchone() == (False,)

        writer = site.writer(password=password, hosts=[FLOATING])
        holder = wait_for("somebody to have the address", lambda: floating(site))
        moment = time.monotonic()
        site.lab.ssh(holder, "systemctl stop haproxy")
        wait_for("the other balancer to have the address", lambda: floating(site) not in (None, holder))
        since = time.monotonic()
        wait_for("the writer to go on", lambda: writer.moments[-1] > since)
        note(f"a balancer stops: the writer waited {writer.gap_since(moment):.1f} s at most")
        site.lab.ssh(holder, "systemctl start haproxy")

        said = site.play("backup", type="diff")[1]
        assert "diff backup: " in said, said
        leader = site.healthy()
        site.sql(leader, "create table precious as select generate_series(1, 1000) as row")
        before = site.sql(leader, "select clock_timestamp()")
        since = time.monotonic()
        wait_for("a commit after the moment", lambda: writer.moments[-1] > since)
        site.sql(leader, "drop table precious")
        close(writer)
        said = site.play("restore", target=before, fails=True)[1]
        assert "say -e restore=main" in said, said
        site.play("restore", restore="main", target=before)
        leader = site.healthy()
        for host in groups["postgres_cluster"]:
            wait_for("the table to be back", lambda host=host: site.sql(host, "select count(*) from precious") == "1000")
        site.unchanged("site")
        # The archive goes on behind the new timeline.
        site.play("backup", type="full")
        site.play("remove", remove="main")
        assert "main" in site.lab.ssh("store", "ls /var/lib/pgbackrest/backup"), "the repository stays"


def zookeeper(ground):
    """The same on ZooKeeper: the site, twice; a switchover, and the loss of the primary's machine with a member of the store."""
    groups = {"zookeeper_cluster": THREE, "postgres_cluster": THREE, "balancers": THREE}
    with Site(ground, THREE, groups, SYNCHRONOUS) as site:
        site.play("site")
        leader = site.healthy()
        site.unchanged("site")
        writer = site.writer()
        moment = time.monotonic()
        site.play("switchover")
        leader = another_leads(site, writer, leader, "a switchover", moment)
        moment = time.monotonic()
        site.lab.machines[leader].power_off()
        another_leads(site, writer, leader, "power-off of the primary's machine, with a member of ZooKeeper", moment)
        site.lab.machines[leader].power_on()
        site.lab.until_reached(leader)
        site.healthy()
        close(writer)


def floating(site):
    """Who has the address that moves, if exactly one has it."""
    holders = [host for host in site.on("balancers") if FLOATING in site.lab.ssh(host, "ip -o -4 address show dev eth0")]
    return holders[0] if len(holders) == 1 else None


PATRONI = """
scope: main
name: {name}
restapi: {{listen: "{address}:8008", connect_address: "{address}:8008"}}
etcd3: {{hosts: "{hosts}"}}
bootstrap:
  dcs: {{ttl: 20, loop_wait: 1, retry_timeout: 3, postgresql: {{use_pg_rewind: true}}}}
  initdb: [{{encoding: UTF8}}, data-checksums]
postgresql:
  listen: "{address},127.0.0.1:5432"
  connect_address: "{address}:5432"
  bin_dir: /usr/lib/postgresql/{major}/bin
  data_dir: /var/lib/postgresql/patroni
  authentication:
    superuser: {{username: postgres, password: "{password}"}}
    replication: {{username: replicator, password: "{password}"}}
    rewind: {{username: rewinder, password: "{password}"}}
  pg_hba: ["local all all trust", "host all all 127.0.0.1/32 scram-sha-256", "host all all 10.98.0.0/24 scram-sha-256", "host replication replicator 10.98.0.0/24 scram-sha-256"]
  parameters: {{unix_socket_directories: /run/postgresql}}
"""


def migration(ground):
    """A cluster of Debian's Patroni behind the store and balancers of the playbooks becomes one of Tenure's, under the writer."""
    password = "secret-of-the-tests"
    with Site(ground, THREE, EVERYTHING, {"node_tls": False, "tenure_superuser_password": password}) as site:
        site.play("site", "--tags", "store,balancers")
        hosts = ",".join(f"{site.lab.address(host)}:2379" for host in THREE)
        for host in THREE:
            text = PATRONI.format(name=host, address=site.lab.address(host), hosts=hosts, major=site.major, password=password)
            site.lab.machines[host].root.joinpath("root/patroni.yml").write_text(text)
            site.lab.ssh(host, "mkdir -p /etc/postgresql-common/createcluster.d; echo create_main_cluster = false >/etc/postgresql-common/createcluster.d/x.conf; "
                         f"DEBIAN_FRONTEND=noninteractive apt-get -qq --yes --no-install-recommends install postgresql-{site.major} patroni python3-etcd3 || "
                         f"DEBIAN_FRONTEND=noninteractive apt-get -qq --yes --no-install-recommends install postgresql-{site.major} patroni; "
                         "install -D -o root -g postgres -m 640 /root/patroni.yml /etc/patroni/config.yml && systemctl enable --now --no-block patroni", timeout=400)
        primary = wait_for("Patroni's leader", lambda: next((host for host in THREE if '"role": "master"' in patroni(site, host)), None), 120)
        wait_for("Patroni's replicas", lambda: sum("streaming" in patroni(site, host) or '"role": "replica"' in patroni(site, host) for host in THREE) == 2, 120)
        wait_for("every balancer to find Patroni's leader", lambda: all(
            any(site.statistics(balancer).get(("primary", host), "").startswith("UP") for host in THREE) for balancer in site.on("balancers")))
        writer = site.writer(password=password)
        started = {host: site.sql(host, "select pg_postmaster_start_time()") for host in THREE}
        moment = time.monotonic()
        site.play("migrate_from_patroni")
        note(f"from Patroni to Tenure: the writer waited {writer.gap_since(moment):.1f} s at most")
        for host in THREE:
            assert site.lab.ssh(host, "systemctl is-active tenured@main").strip() == "active"
            assert host == primary or site.sql(host, "select pg_postmaster_start_time()") == started[host], "PostgreSQL ran on"
        site.unchanged("migrate_from_patroni")
        close(writer)


def patroni(site, host):
    return site.lab.ssh(host, f"python3 -c 'import urllib.request as u; print(u.urlopen(\"http://{site.lab.address(host)}:8008/patroni\").read().decode())'", check=False)


PARTS = {part.__name__: part for part in [base, settings, nodes, drills, around, zookeeper, migration, *SETUPS]}


def main():
    name = sys.argv[1]
    if name not in PARTS:
        sys.exit(f"there is no part {name}: {', '.join(PARTS)}")
    begun = time.monotonic()
    print(f"== {name}: {PARTS[name].__doc__}", flush=True)
    with tempfile.TemporaryDirectory(prefix="ground-") as ground:
        try:
            PARTS[name](ground)
        except Exception:
            traceback.print_exc(file=sys.stdout)
            sys.exit(f"== {name} failed after {time.monotonic() - begun:.0f} s")
        finally:
            # Overlays end with the namespace; until then nothing below them may be removed.
            os.system(f"umount --lazy {ground}/*/root 2>/dev/null")
    print(f"== {name}: good, {time.monotonic() - begun:.0f} s", flush=True)
    for sentence in REPORT:
        print(f"REPORT {name}: {sentence}", flush=True)


if __name__ == "__main__":
    main()
