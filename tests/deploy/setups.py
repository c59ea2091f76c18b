"""The setups that people build by hand today, deployed from the inventories that ship, and each drill of theirs. What an operator types
and sees is kept for docs/setups, in TENURE_DEPLOY_LOGS."""
import os
import subprocess
import time
from pathlib import Path

from lab import wait_for
from site_under_test import TOOLS, Site


class Page:
    """What an operator types and sees: on a machine, or on one of their own that reaches all of them."""

    def __init__(self, site, writes_on=5432):
        self.site = site
        passwords = site.ground / "pgpass"
        passwords.write_text(f"*:*:*:postgres:{site.secret('superuser')}\n*:*:*:replicator:{site.secret('replication')}\n")
        passwords.chmod(0o600)
        self.environment = {
            **os.environ, "PATH": f"{TOOLS}:{os.environ['PATH']}", "PGPASSFILE": str(passwords), "PGUSER": "postgres", "PGDATABASE": "postgres", "PGCONNECT_TIMEOUT": "5",
            "PGHOST": site.on("balancers")[0], "PGPORT": str(writes_on), "REST": f"tenure:{site.secret('rest')}",
            "CA": str(site.inventory / ".secrets/ca/ca.pem"), "LC_ALL": "C.UTF-8",
        }
        statistics = site.inventory / ".secrets/statistics"
        if statistics.exists():
            self.environment["STATISTICS"] = f"admin:{statistics.read_text().strip()}"
        keep = os.environ.get("TENURE_DEPLOY_LOGS", site.ground)
        self.file = Path(keep, f"{site.name}-page.txt").open("w", encoding="utf-8")

    def _told(self, prompt, line, said):
        text = f"{prompt} {line}\n{said.rstrip()}\n" if said.strip() else f"{prompt} {line}\n"
        self.site.no_secret_in(text)
        self.file.write(text)
        self.file.flush()
        print("".join(f"      {row}\n" for row in text.splitlines()), end="", flush=True)
        return said

    def at(self, host, line, **options):
        """On a machine, as root."""
        return self._told(f"root@{host}#", line, self.site.lab.ssh(host, line, **options))

    def here(self, line, fails=False, seconds=60):
        done = subprocess.run(["bash", "-c", line], env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True, timeout=seconds, cwd=self.site.ground)
        self._told("$", line, done.stdout)
        assert (done.returncode != 0) == fails, f"{line}: exit code {done.returncode}\n{done.stdout}"
        return done.stdout

    def section(self, title):
        self._told("##", title, "")

    def play(self, name, **variables):
        """What a playbook says in the end is enough."""
        said = self.site.play(name, **variables)[1]
        options = "".join(f" -e {key}={value}" for key, value in variables.items())
        self._told("$", f"ansible-playbook -i my-site tenure.cluster.{name}{options}", "…\n" + said[said.index("PLAY RECAP"):])
        return said

    def waits_for(self, line, wanted, seconds=120):
        """The command is repeated until it says what is wanted, and told once."""
        ask = lambda: subprocess.run(["bash", "-c", line], env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,  # noqa: E731
                                     stderr=subprocess.STDOUT, text=True, timeout=60, check=False).stdout
        said = wait_for(f"{line} to say {wanted!r}", lambda: (answer := ask()) and wanted in answer and answer, seconds)
        self._told("$", line, said)


def begun(site, **writes):
    """The inventory as it ships becomes a healthy cluster, and a second run changes nothing. Its leader, and a page that has begun."""
    site.play("site")
    leader = site.healthy()
    site.unchanged("site")
    page = Page(site, **writes)
    page.section("What is there")
    page.at(leader, "tenurectl list")
    return leader, page


def somebody_else(site, former, seconds=120):
    return wait_for("another leader", lambda: (site.leader() or former) != former and site.leader(), seconds)


def follower(site, *besides):
    """A member that follows, the last by name."""
    return [host for host in site.on("postgres_cluster") if host != site.leader() and host not in besides][-1]


def lags_alone(site, behind):
    """One member is seen to be behind, and no other: each tells of its position now and then."""
    def lag(member):
        known = member.get("Replay Lag")
        return known if isinstance(known, (int, float)) else 0
    wait_for(f"{behind} alone to lag", lambda: [member["Member"] for member in site.members() if lag(member) > 1] == [behind])


def switched_on(site, host):
    site.lab.machines[host].power_on()
    site.lab.until_reached(host)


def lost_and_back(page, site, leader):
    """The primary's machine is stopped; another member leads; it comes back and follows."""
    page.section("The primary's machine stops")
    page.here("psql -qc 'create table kept (row int); insert into kept select generate_series(1, 1000)'")
    moment = time.monotonic()
    site.lab.machines[leader].power_off()
    page.waits_for("psql -Atc 'select pg_is_in_recovery(), count(*) from kept'", "f|1000")
    print(f"   the primary's machine is lost: {time.monotonic() - moment:.1f} s until the router leads to another", flush=True)
    after = somebody_else(site, leader)
    page.at(after, "tenurectl list")
    page.section("It is started again")
    switched_on(site, leader)
    assert site.healthy() == after, "whoever comes back follows"
    page.at(after, "tenurectl list")
    page.at(after, "tenurectl history")
    return after


def a_two_nodes(ground):
    """Two members, one etcd, one router: the primary's machine is lost; a third member comes; backups; what troubles look like."""
    with Site.of_inventory(ground, "a_two_nodes", bare=["node3"]) as site:
        leader, page = begun(site)
        other = follower(site)
        page.here("psql -Atc 'select pg_is_in_recovery()'")
        page.here("psql -p 5433 -Atc 'select pg_is_in_recovery()'")
        page.here("psql -h node1 -p 5440 -Atc 'select version()'; psql -h node2 -p 5441 -Atc 'select version()'")
        assert page.here(f"curl -s --cacert $CA -o /dev/null -w '%{{http_code}}\\n' https://{leader}:8008/primary").strip() == "200"
        assert page.here(f"curl -s --cacert $CA -o /dev/null -w '%{{http_code}}\\n' https://{other}:8008/primary").strip() == "503"
        assert "Statistics Report" in page.here("curl -s http://router:7000/ | grep -o 'Statistics Report for HAProxy'")
        leader = lost_and_back(page, site, leader)

        page.section("A third member")
        untouched = [site.lab.ssh(host, "sha256sum /etc/tenure/*.yml") for host in ("node1", "node2")]
        site.groups["postgres_cluster"].append("node3")
        site.facts["node3"] = {"tenure_port": 5442}
        site.write_inventory()
        page.play("add_node", node="node3")
        site.healthy()
        page.at(leader, "tenurectl list")
        wait_for("the router to send readers there", lambda: site.statistics("router").get(("replicas", "node3"), "").startswith("UP"))
        assert [site.lab.ssh(host, "sha256sum /etc/tenure/*.yml") for host in ("node1", "node2")] == untouched

        page.section("Backups")
        page.here("pg_dump -f dump.sql && tail -n 5 dump.sql")
        port = site.facts[follower(site)]["tenure_port"]
        page.here(f"pg_basebackup -h {follower(site)} -p {port} -U replicator -D copy -c fast && cat copy/PG_VERSION && rm -r copy")

        page.section("No primary")
        page.at("router", "systemctl stop etcd")
        until = "server closed the connection unexpectedly"
        page.waits_for("psql -c 'create table x (); drop table x' 2>&1", until)
        page.at(leader, f"tenurectl doctor --via https://{site.lab.address(leader)}:8008", check=False)
        page.at(leader, "journalctl -u 'tenured@*' -n 4 -o cat --no-pager")
        page.at("router", "systemctl start etcd")
        leader = site.healthy()
        page.waits_for("psql -Atc 'select pg_is_in_recovery()'", "f")

        page.section("A replica lags")
        behind = follower(site)
        site.sql(behind, "select pg_wal_replay_pause()")
        page.here("psql -qc 'create table bulk as select generate_series(1, 300000) as row'")
        lags_alone(site, behind)
        page.at(leader, "tenurectl list")
        page.at(leader, "tenurectl doctor", check=False)
        site.sql(behind, "select pg_wal_replay_resume()")
        site.healthy()

        page.section("Connection refused")
        page.at("router", "systemctl stop haproxy")
        page.here("psql -c 'select 1'", fails=True)
        page.at("router", "systemctl start haproxy")
        page.waits_for("psql -Atc 'select pg_is_in_recovery()'", "f")


def b_four_nodes(ground):
    """Four members, three etcd, one router: a login for everything, an application's database; a candidate, a reinit, a frozen etcd."""
    with Site.of_inventory(ground, "b_four_nodes") as site:
        leader, page = begun(site)
        page.environment["APP"] = site.secret("app")
        page.at(leader, "tenurectl show-config")
        page.here("PGPASSWORD=$APP psql -U app -d app -Atc 'select current_user, current_database(), pg_is_in_recovery()'")
        page.here("psql -p 5433 -Atc 'select pg_is_in_recovery()'")
        page.here(f"curl -s --cacert $CA -u $REST https://{leader}:8008/health")
        page.here(f"curl -s --cacert $CA -u $REST https://{leader}:8008/cluster")
        page.here(f"curl -s --cacert $CA -u $REST https://{leader}:8008/metrics | grep -E '^patroni_(primary|replica|postgres_running|cluster_unlocked)'")
        assert page.here("curl -s -o /dev/null -w '%{http_code}\\n' http://router:8080/stats").strip() == "401"
        assert page.here("curl -s -o /dev/null -w '%{http_code}\\n' -u $STATISTICS http://router:8080/stats").strip() == "200"

        page.section("A switchover to a candidate")
        candidate = follower(site)
        page.at(leader, f"tenurectl switchover main --candidate {candidate} --force")
        assert somebody_else(site, leader) == candidate
        leader = site.healthy()
        page.at(leader, "tenurectl list")

        page.section("A replica that lags is made anew")
        behind = follower(site)
        site.sql(behind, "select pg_wal_replay_pause()")
        page.here("psql -qc 'create table bulk as select generate_series(1, 300000) as row'")
        lags_alone(site, behind)
        page.at(leader, "tenurectl list")
        page.at(leader, f"tenurectl reinit main {behind} --force --wait", timeout=300)
        site.healthy()
        page.at(leader, "tenurectl list")
        leader = lost_and_back(page, site, leader)

        page.section("An etcd that stands still")
        still = site.store_leader()
        site.lab.machines[still].freeze()
        wait_for("another leader of the store", lambda: site.store_leader() not in (None, still))
        page.at(next(host for host in site.on("etcd_cluster") if host != still),
                HEALTH, check=False)
        page.here("psql -Atc 'insert into kept values (1001) returning row'")
        assert site.leader() == leader, "a member of the store that stands still changes nothing"
        site.lab.machines[still].thaw()
        wait_for("the store to be whole", lambda: site.lab.ssh(still, HEALTH, check=False).count("is healthy") == 3)
        page.at(leader, "tenurectl list")

        page.section("From Python")
        page.here(f"""python3 - <<'END'
import json, os, ssl, urllib.request
import psycopg
with psycopg.connect(dbname="app", user="app", password=os.environ["APP"], autocommit=True) as db:
    db.execute("create table visits (at timestamptz default now())")
    db.execute("insert into visits default values")
    print("rows:", db.execute("select count(*) from visits").fetchone()[0])
trust = ssl.create_default_context(cafile=os.environ["CA"])
cluster = json.load(urllib.request.urlopen("https://{leader}:8008/cluster", context=trust))
print("members:", {{member["name"]: member["role"] for member in cluster["members"]}})
END""")


def c_exporters(ground):
    """Three members with exporters, three etcd, one router: the initialiser, the numbers, the quorum lost and found, a member that flaps."""
    with Site.of_inventory(ground, "c_exporters") as site:
        leader, page = begun(site)
        page.environment["APP"] = site.secret("app")
        page.here("PGPASSWORD=$APP psql -U app -d app -Atc 'select current_user, current_database()'")
        page.here("for i in 1 2 3 4; do psql -p 5433 -Atc 'select inet_server_addr(), pg_is_in_recovery()'; done")
        page.waits_for(f"curl -s http://{leader}:9187/metrics | grep '^pg_up'", "pg_up 1")
        page.waits_for("curl -s http://router:9090/api/v1/query?query=patroni_postgres_running | grep -o '\"value\"' | wc -l", "3")
        assert page.here("curl -s -o /dev/null -w '%{http_code}\\n' -u $STATISTICS -H 'Host: stats.example.com' http://router/").strip() == "200"

        page.section("The store's quorum is lost")
        page.here("psql -qc 'create table written (row int); insert into written values (1)'")
        gone = [host for host in site.on("etcd_cluster") if host != "etcd1"]
        for host in gone:
            site.lab.machines[host].power_off()
        page.waits_for("psql -c 'create table x (); drop table x' 2>&1", "server closed the connection unexpectedly")
        page.here("psql -p 5433 -Atc 'select pg_is_in_recovery(), count(*) from written'")
        page.at(leader, "journalctl -u 'tenured@*' -n 5 -o cat --no-pager")
        for host in gone:
            switched_on(site, host)
        page.waits_for("psql -Atqc 'insert into written values (2) returning pg_is_in_recovery(), row'", "f|2")
        leader = site.healthy()
        page.at(leader, "tenurectl list")

        page.section("A member flaps")
        flapping = follower(site)
        for _ in range(3):
            site.lab.machines[flapping].cut()
            wait_for("it to be missed", lambda: any(member["Member"] == flapping and member["State"] != "streaming" for member in site.members())
                     or flapping not in {member["Member"] for member in site.members()}, 60)
            site.lab.machines[flapping].reconnect()
            site.healthy()
        page.at(flapping, "tenurectl events --since 5m", check=False)
        page.at(flapping, "tail -n 8 /var/log/postgresql/postgresql-*-main.log")
        lost_and_back(page, site, leader)


def d_zookeeper(ground):
    """Three members on ZooKeeper with ports of their own: stop, start, freeze, thaw, restarts of router and cluster, everything removed."""
    with Site.of_inventory(ground, "d_zookeeper") as site:
        leader, page = begun(site)
        page.here("psql -Atc 'select pg_is_in_recovery()'")
        leader = lost_and_back(page, site, leader)

        page.section("The primary's machine stands still, and goes on")
        site.lab.machines[leader].freeze()
        after = somebody_else(site, leader)
        page.waits_for("psql -Atc 'select pg_is_in_recovery(), count(*) from kept'", "f|1000")
        page.at(after, "tenurectl list")
        site.lab.machines[leader].thaw()
        assert site.healthy() == after
        page.at(after, "tenurectl list")
        leader = after

        page.section("The router restarts")
        site.lab.machines["router"].power_off()
        switched_on(site, "router")
        page.waits_for("psql -Atc 'select pg_is_in_recovery()'", "f")

        page.section("The whole cluster restarts")
        page.at(leader, "tenurectl restart main --force", timeout=300)
        site.healthy()
        page.at(leader, "tenurectl list")

        page.section("Everything goes, with the data")
        page.play("remove", remove="main", remove_data="true")
        for host in site.on("postgres_cluster"):
            left = site.lab.ssh(host, f"ls -d /var/lib/postgresql/{site.major}/main /etc/tenure/*.yml 2>/dev/null; true").strip()
            left += site.running(host, "tenure", "postgres", "java")
            assert not left, f"{host}: {left}"


LAGS = """tenurectl list -f json | python3 -c 'import json, sys; [print(m["Member"], m.get("Replay Lag", 0), "MB") for m in json.load(sys.stdin)]'"""
HEALTH = "set -a; . /etc/default/etcdctl; etcdctl endpoint health --cluster 2>&1 | cut -c1-100"


def e_tutorial(ground):
    """Three members in a cascade, three etcd, one router: every verb, a database before a failover, a member cut off and connected again."""
    with Site.of_inventory(ground, "e_tutorial") as site:
        leader, page = begun(site, writes_on=5000)
        page.at(leader, "tenurectl topology")
        page.at(leader, LAGS)
        page.at("etcd1", HEALTH)
        page.here("for i in 1 2 3; do psql -p 5001 -Atc 'select inet_server_addr()'; done")
        assert page.here("curl -s -o /dev/null -w '%{http_code}\\n' http://router:7000/").strip() == "401"

        page.section("A switchover")
        candidate = next(host for host in ("node2", "node1") if host != leader)
        page.at(leader, f"tenurectl switchover main --leader {leader} --candidate {candidate} --force")
        assert somebody_else(site, leader) == candidate
        leader = site.healthy()
        page.at(leader, "tenurectl history")

        page.section("Verbs")
        replica = follower(site)
        page.at(leader, f"tenurectl reload main {replica} --force")
        page.at(leader, f"tenurectl restart main {replica} --force", timeout=300)
        site.healthy()
        page.at(leader, f"tenurectl reinit main {replica} --force --wait", timeout=300)
        site.healthy()
        page.at(leader, "tenurectl pause --wait")
        page.at(leader, "tenurectl list")
        page.at(leader, "tenurectl resume --wait")

        page.section("A database before a failover")
        page.here("createdb shop && psql -d shop -qc \"create table orders (id int, what text); insert into orders values (1, 'tea'), (2, 'cake')\"")
        former = leader
        site.lab.machines[former].power_off()
        leader = somebody_else(site, former)
        page.waits_for("psql -d shop -Atc 'select pg_is_in_recovery(), count(*) from orders'", "f|2")
        other = next(host for host in site.on("postgres_cluster") if host not in (former, leader))
        page.waits_for(f"psql -h {other} -p 5432 -d shop -Atc 'select pg_is_in_recovery(), count(*) from orders'", "t|2")
        switched_on(site, former)
        site.healthy()
        page.at(leader, "tenurectl list")

        page.section("A member is cut from the network")
        cut = follower(site)
        site.lab.machines[cut].cut()
        wait_for("it to be missed", lambda: cut not in {member["Member"] for member in site.members() if member["State"] in ("streaming", "running")}, 90)
        page.at(leader, "tenurectl list")
        site.lab.machines[cut].reconnect()
        site.healthy()
        page.at(leader, "tenurectl list")


SETUPS = [a_two_nodes, b_four_nodes, c_exporters, d_zookeeper, e_tutorial]
