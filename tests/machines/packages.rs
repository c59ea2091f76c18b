//! Packages on machines with systemd: installed, upgraded under writers, removed, purged. `make test-packages` makes the packages
//! and runs this.

use super::Undisturbed;
use super::support::machine::Machine;
use super::support::machines::{AGENT, Brought, GUARDIAN, PASSWORD, Setup, Site, on_machines, others};
use super::support::{rest, wait_for};

const APT: &str = "DEBIAN_FRONTEND=noninteractive apt-get --quiet=2 --yes --no-install-recommends";

fn setup() -> Setup {
    Setup { brought: Brought::AsPackages, ..Setup::default() }
}

/// One of postgresql-common's clusters under its agent.
struct Cluster {
    version: String,
    agent: String,
    guardian: String,
    config: String,
}

impl Cluster {
    /// `main` of the PostgreSQL that the image has.
    fn of(machine: &Machine) -> Cluster {
        let version = machine.ask("ls /usr/lib/postgresql | sort -n | tail -n 1").trim().to_owned();
        Cluster {
            agent: format!("tenured@{version}-main.service"),
            guardian: format!("tenure-fence@{version}-main.service"),
            config: format!("/etc/tenure/{version}-main.yml"),
            version,
        }
    }
}

/// What a package may not bring about: something that runs, or that would at the next boot.
fn nothing_of_ours_runs(machine: &Machine) {
    let units = machine.ask("systemctl list-units --all --plain --no-legend 'tenure*'");
    assert_eq!(units.trim(), "", "{}", machine.name);
    let processes = machine.run("pgrep --list-full tenure");
    assert_eq!(String::from_utf8_lossy(&processes.stdout), "", "{}", machine.name);
}

/// The program that a unit's process was started from is the one that is there now.
fn runs_what_is_installed(machine: &Machine, unit: &str) -> bool {
    let pid = machine.property(unit, "MainPID");
    pid != "0" && !machine.ask(&format!("readlink /proc/{pid}/exe || true")).contains("(deleted)")
}

async fn until_new_programs_run(machine: &Machine, units: &[&str]) {
    wait_for("the units to run the installed programs", async || {
        units.iter().all(|unit| runs_what_is_installed(machine, unit)).then_some(())
    })
    .await;
}

#[test]
fn the_debian_package_makes_a_cluster_is_upgraded_under_writers_and_leaves_the_data_behind() {
    on_machines(&setup(), async |site| {
        let cluster = Cluster::of(&site.machines[0]);
        site.data_dir = format!("var/lib/postgresql/{}/main", cluster.version);
        for machine in &site.machines {
            // The image is made without manuals.
            machine.ask("rm -f /etc/dpkg/dpkg.cfg.d/*mmdebstrap*");
            machine.ask(&format!("{APT} install /root/n/tenure_*.deb"));
            assert_eq!(machine.ask("dpkg --verify tenure"), "", "every file is as it was packed");
            nothing_of_ours_runs(machine);
        }
        needrestart_leaves_alone(&site.machines[0], [&cluster.agent, &cluster.guardian]);
        the_generator_guards_what_is_there(&site.machines[0], &cluster);
        for machine in &site.machines {
            generate(machine, &cluster, site);
            machine.ask(&format!("systemctl enable --quiet --now --no-block etcd.service {}", cluster.agent));
        }
        let leader = site.begun().await;
        debian_tools_know_the_cluster(&site.machines[leader], &cluster);
        let standbys = others(leader);

        upgrade_of_a_standby_whose_configuration_is_spoiled(&site.machines[standbys[0]], &cluster).await;
        site.machines[standbys[1]].ask(&format!("{APT} install /root/next/tenure_*.deb"));
        upgrade_of_the_primary(
            site,
            leader,
            &cluster.agent,
            &format!("{APT} install /root/next/tenure_*.deb"),
        )
        .await;
        the_guardian_follows_with_the_next_hand_over(site, leader, &cluster).await;

        let leader = site.healthy().await;
        removed_and_installed_again(site, leader, &cluster).await;
        purged(site, others(leader)[0], &cluster);
    });
}

/// As needrestart reads what the package tells it: a zero is "not by itself".
fn needrestart_leaves_alone(machine: &Machine, units: [&str; 2]) {
    let read = "our %nrconf; do q(/etc/needrestart/conf.d/tenure.conf) or die; my $rules = $nrconf{override_rc}; \
                for my $unit (@ARGV) { print grep({ $unit =~ /$_/ } keys %$rules) ? \"left alone\\n\" : \"restarted\\n\" }";
    let said = machine.ask(&format!("perl -e '{read}' {} ssh.service", units.join(" ")));
    assert_eq!(said, "left alone\nleft alone\nrestarted\n");
}

/// Names, options and files that would harm something are refused before anything is written.
fn the_generator_guards_what_is_there(machine: &Machine, cluster: &Cluster) {
    let version = &cluster.version;
    let refused = |arguments: &str, reason: &str| {
        let output = machine.run(&format!("pg_createconfig_tenure {arguments}"));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(reason), "{arguments}: {said}");
    };
    refused("nine main", "is no version");
    refused(&format!("{version} ../main"), "cannot be a cluster's name");
    refused(&format!("--address='1|2' {version} main"), "no IPv4 address");
    refused("99 main", "is not installed");
    refused(&format!("--no-such-option {version} main"), "unrecognized option");

    // One that exists.
    machine.ask(&format!("pg_createcluster {version} old -- --auth=trust"));
    let before = machine.ask(&format!("cat /etc/postgresql/{version}/old/*.conf | sha256sum"));
    refused(&format!("{version} old"), "exists");
    assert_eq!(machine.ask(&format!("cat /etc/postgresql/{version}/old/*.conf | sha256sum")), before);
    machine.ask(&format!("pg_createconfig_tenure --adopt --api-port=8010 {version} old"));
    let adopted = machine.ask(&format!("cat /etc/tenure/{version}-old.yml"));
    assert!(adopted.contains(&format!("/var/lib/postgresql/{version}/old")), "{adopted}");
    assert!(machine.ask(&format!("cat /etc/postgresql/{version}/old/start.conf")).contains("\nmanual\n"));

    // Passwords are made up once, for root alone.
    let second = format!("pg_createconfig_tenure --port=5440 --api-port=8011 {version} second");
    machine.ask(&second);
    let passwords = format!("/etc/tenure/{version}-second.passwords");
    assert_eq!(machine.ask(&format!("stat -c '%a %U' {passwords}")).trim(), "600 root");
    assert_eq!(
        machine.ask(&format!("stat -c '%a %U %G' /etc/tenure/{version}-second.yml")).trim(),
        "640 root postgres"
    );
    let written = machine.ask(&format!("cat /etc/tenure/{version}-second.yml {passwords}"));
    refused(&second["pg_createconfig_tenure ".len()..], "is there already");
    machine.ask(&format!("{second} --force"));
    assert_eq!(machine.ask(&format!("cat /etc/tenure/{version}-second.yml {passwords}")), written);
    for name in ["old", "second"] {
        machine.ask(&format!("rm /etc/tenure/{version}-{name}.*; rm -r /etc/postgresql/{version}/{name} /var/lib/postgresql/{version}/{name}"));
    }
}

fn generate(machine: &Machine, cluster: &Cluster, site: &Site) {
    let hosts: Vec<String> =
        site.machines.iter().map(|machine| format!("{}:2379", machine.address)).collect();
    machine.ask(&format!("echo 'etcd3: {{hosts: \"{}\"}}' >/etc/tenure/dcs.yml", hosts.join(",")));
    let lines = ["superuser", "replication", "rewind"].map(|role| format!("{role}={PASSWORD}")).join("\\n");
    machine.ask(&format!("printf '{lines}\\n' >/root/passwords"));
    // Address, network and name are found by themselves.
    let said =
        machine.ask(&format!("pg_createconfig_tenure --passwords=/root/passwords {} main", cluster.version));
    assert!(said.contains(&format!("tenured@{}-main", cluster.version)), "{said}");
    let written = machine.ask(&format!("cat {}", cluster.config));
    for wanted in [format!("\"{}:8008\"", machine.address), format!("name: \"{}\"", machine.name)] {
        assert!(written.contains(&wanted), "{wanted}: {written}");
    }
    assert!(written.contains("host all all 10.99.0.0/24 scram-sha-256"), "{written}");
}

fn debian_tools_know_the_cluster(machine: &Machine, cluster: &Cluster) {
    let version = &cluster.version;
    let listed = machine.ask("pg_lsclusters --no-header");
    let ours = listed.lines().find(|line| line.contains("main")).unwrap_or_default();
    for word in ["5432", "online", "postgres", &format!("/var/lib/postgresql/{version}/main")] {
        assert!(ours.contains(word), "{word}: {listed}");
    }
    let log = format!("/var/log/postgresql/postgresql-{version}-main.log");
    assert!(machine.ask(&format!("cat {log}")).contains("ready to accept connections"));
    // By the socket that Debian's psql looks for, and with the time zone that initdb has chosen.
    let psql = format!("runuser -u postgres -- psql --cluster {version}/main -XAtc");
    assert_eq!(
        machine
            .ask(&format!("{psql} \"select sourcefile from pg_settings where name = 'log_timezone'\""))
            .trim(),
        format!("/var/lib/postgresql/{version}/main/postgresql.conf")
    );
    let members = machine.ask(&format!("tenurectl -c {} list", cluster.config));
    assert!(members.contains("Leader") && members.contains("streaming"), "{members}");
}

/// An agent that would not come back is not sent away.
async fn upgrade_of_a_standby_whose_configuration_is_spoiled(machine: &Machine, cluster: &Cluster) {
    let (agent, config) = (&cluster.agent, &cluster.config);
    let before = machine.property(agent, "MainPID");
    machine.ask(&format!("cp -p {config} /root/good.yml && echo 'ttl: [' >>{config}"));
    let said = machine.ask(&format!("{APT} install /root/next/tenure_*.deb 2>&1"));
    assert!(said.contains("runs on in its old version"), "{said}");
    assert_eq!(machine.property(agent, "MainPID"), before);
    machine.ask(&format!("cp -p /root/good.yml {config} && /usr/libexec/tenure/restart-agents"));
    assert_ne!(machine.property(agent, "MainPID"), before);
    until_new_programs_run(machine, &[agent, &cluster.guardian]).await;
}

async fn upgrade_of_the_primary(site: &Site, leader: usize, agent: &str, upgrade: &str) {
    let before = Undisturbed::note(site, leader).await;
    let machine = &site.machines[leader];
    let process = machine.property(agent, "MainPID");
    let writers = [site.write_anywhere(), site.write_at(leader)];
    site.more_rows(100).await;
    println!("{}", machine.ask(&format!("{upgrade} 2>&1")));
    assert_ne!(machine.property(agent, "MainPID"), process, "an upgrade brings a new agent");
    assert!(runs_what_is_installed(machine, agent));
    site.more_rows(200).await;
    site.lease_outlived().await;
    site.more_rows(100).await;
    drop(writers);
    before.check(site).await;
}

async fn the_guardian_follows_with_the_next_hand_over(site: &Site, leader: usize, cluster: &Cluster) {
    let machine = &site.machines[leader];
    assert!(!runs_what_is_installed(machine, &cluster.guardian), "a primary is never without its guardian");
    machine.ask(&format!("tenurectl -c {} switchover --force", cluster.config));
    site.leader_besides(leader).await;
    for machine in &site.machines {
        until_new_programs_run(machine, &[&cluster.agent, &cluster.guardian]).await;
    }
}

async fn removed_and_installed_again(site: &Site, leader: usize, cluster: &Cluster) {
    let machine = &site.machines[leader];
    machine.ask(&format!("{APT} remove tenure"));
    let next = site.leader_besides(leader).await;
    gone_and_data_left(site, leader).await;
    let kept = machine.ask(&format!("ls /etc/tenure/dcs.yml /etc/tenure/config.yml.in {}", cluster.config));
    assert_eq!(kept.lines().count(), 3);
    machine.ask(&format!("{APT} install /root/next/tenure_*.deb"));
    machine.ask(&format!("systemctl start {}", cluster.agent));
    wait_for("the member to be back", async || {
        (site.status(leader)?["replication_state"] == "streaming").then_some(())
    })
    .await;
    assert_eq!(site.healthy().await, next, "whoever comes back follows");
}

async fn gone_and_data_left(site: &Site, index: usize) {
    let machine = &site.machines[index];
    assert!(machine.root.join(&site.data_dir).join("PG_VERSION").exists());
    assert_eq!(site.postmaster(index), None, "PostgreSQL was stopped in good order");
    assert!(rest::status(&machine.address).is_none());
    wait_for("the guardian to go", async || {
        machine.ask("pgrep tenure || true").trim().is_empty().then_some(())
    })
    .await;
    // Nothing that systemd would go on starting.
    let units = machine
        .ask("systemctl list-units --plain --no-legend --state=active,activating,deactivating 'tenure*'");
    assert_eq!(units.trim(), "");
}

fn purged(site: &Site, index: usize, cluster: &Cluster) {
    let machine = &site.machines[index];
    machine.ask("touch /etc/tenure/of-the-administrator.pem");
    // dpkg runs scripts again after an interruption.
    let (agent, postmaster) = (machine.property(&cluster.agent, "MainPID"), site.postmaster(index));
    machine.ask("cp /var/lib/dpkg/info/tenure.p* /root");
    machine.ask("cd /root && ./tenure.prerm upgrade 0.1 && ./tenure.postinst configure && ./tenure.postinst configure");
    assert_eq!((machine.property(&cluster.agent, "MainPID"), site.postmaster(index)), (agent, postmaster));
    machine.ask("/root/tenure.prerm remove");
    machine.ask(&format!("{APT} purge tenure"));
    machine.ask("cd /root && ./tenure.postrm remove && ./tenure.postrm purge && ./tenure.postrm purge");
    assert!(machine.root.join(&site.data_dir).join("PG_VERSION").exists(), "a purge leaves the data");
    let left = machine.ask("ls -A /etc/tenure; ls -A /var/lib/tenure 2>/dev/null || true");
    assert_eq!(left.trim(), "of-the-administrator.pem");
    let links = machine
        .ask("find /etc/systemd/system /usr/lib/systemd/system -name '*tenure*' -not -path '*.slice*'");
    assert_eq!(links.trim(), "");
    assert!(!machine.ask("dpkg --get-selections").contains("tenure"));
    let config = format!("/etc/postgresql/{}/main/postgresql.conf", cluster.version);
    assert!(machine.ask(&format!("cat {config}")).contains("cluster_name"), "PostgreSQL's own files stay");
}

/// On Debian, because that is what there is; everything in the scripts of the .rpm is as on its own systems, and so is systemd.
#[test]
fn the_rpm_package_is_upgraded_under_writers_and_leaves_the_data_behind() {
    on_machines(&setup(), async |site| {
        for machine in &site.machines {
            machine.ask("rpm --upgrade --nodeps /root/n/tenure-[0-9]*.rpm");
            nothing_of_ours_runs(machine);
            let found = machine.run("rpm --verify --nodeps tenure");
            assert!(found.status.success(), "{}", String::from_utf8_lossy(&found.stdout));
            machine.ask("cp /root/main.yml /etc/tenure/main.yml");
        }
        let leader = site.founded().await;
        for standby in others(leader) {
            site.machines[standby].ask("rpm --upgrade --nodeps /root/next/tenure-[0-9]*.rpm");
            until_new_programs_run(&site.machines[standby], &[AGENT, GUARDIAN]).await;
        }
        upgrade_of_the_primary(site, leader, AGENT, "rpm --upgrade --nodeps /root/next/tenure-[0-9]*.rpm")
            .await;
        site.machines[leader].ask("rpm --erase tenure");
        site.leader_besides(leader).await;
        gone_and_data_left(site, leader).await;
        site.machines[leader].ask("cat /etc/tenure/main.yml");
    });
}
