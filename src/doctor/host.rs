//! One member's machine: the guardian, the watchdog, secrets, certificates, disks.

use super::{
    Certificate, Check, DiskFacts, Facts, Finding, HostFacts, MemberFacts, Ward, WatchdogMode, bytes, listed,
    roughly,
};
use crate::model::{AddressStanding, Fitness, Guardian, Span, View, Watchdog};

/// A month to renew a certificate in.
const SOON_S: u64 = 30 * 86_400;
/// A disk that is full sooner leaves nobody the time to come.
const FULL_SOON: Span = Span::from_secs(12 * 3_600);

pub fn examine(facts: &Facts, member: &MemberFacts, ward: &mut Ward) {
    if let Ok(view) = &member.view {
        guarded(view, &member.name, ward);
    }
    let Some(host) = member.host_facts() else { return };
    if let Ok(view) = &member.view {
        watched(view.watchdog, host.watchdog_mode, &member.name, ward);
    }
    ward.made(Check::SecretReadable);
    for path in &host.readable_secrets {
        let finding = Finding::of(Check::SecretReadable, format!("{path} can be read by everybody"));
        ward.find(finding.about(&member.name).mend(format!("chmod o-r {path}")));
    }
    for certificate in &host.certificates {
        ends(facts, certificate, &member.name, ward);
    }
    addresses(host, &member.name, ward);
    disks(member, host, ward);
}

fn addresses(host: &HostFacts, name: &str, ward: &mut Ward) {
    if host.virtual_addresses.is_empty() {
        return;
    }
    let listed = listed(host.virtual_addresses.iter().map(String::as_str));
    let unheld = host.address_standings.is_empty();
    let finding = || Finding::of(Check::NoAddressHolder, format!("tenure-address does not answer: {listed}"));
    ward.check(Check::NoAddressHolder, unheld.then(|| finding().about(name)));
    for AddressStanding { address, duplicate, failure, .. } in &host.address_standings {
        ward.made(Check::AddressTroubled);
        let other = duplicate.as_ref().map(|mac| format!("{mac} answers for {address} as well"));
        for measured in other.iter().chain(failure) {
            ward.find(Finding::of(Check::AddressTroubled, measured.clone()).about(name));
        }
    }
}

fn guarded(view: &View, name: &str, ward: &mut Ward) {
    let none = view.guardian == Guardian::Absent && !view.policy.pause;
    ward.check(
        Check::NoGuardian,
        none.then(|| Finding::of(Check::NoGuardian, "no guardian answers the agent").about(name)),
    );
    let fitness = crate::decide::fitness_told(view, view.now);
    let unfit = match fitness {
        Fitness::Fit => None,
        Fitness::LastResort | Fitness::Unfit => Some(fitness.word().to_owned()),
    };
    let full = view.disk.is_full();
    let unfit = unfit.filter(|_| !full);
    ward.check(
        Check::Unfit,
        unfit.map(|word| Finding::of(Check::Unfit, format!("its fitness is {word}")).about(name)),
    );
    let free = view.disk.free_bytes.map(|free| format!("{} are free", bytes(free))).unwrap_or_default();
    ward.check(Check::DiskFull, full.then(|| Finding::of(Check::DiskFull, free).about(name)));
}

fn watched(watchdog: Watchdog, mode: WatchdogMode, name: &str, ward: &mut Ward) {
    for check in [Check::WatchdogMissing, Check::WatchdogFailed, Check::WatchdogOff] {
        ward.made(check);
    }
    let found = match (mode, watchdog) {
        (WatchdogMode::Off, _) => Some(Finding::of(Check::WatchdogOff, "watchdog.mode is off")),
        (WatchdogMode::Required, Watchdog::Failed(failure)) => {
            Some(Finding::of(Check::WatchdogMissing, failure.to_string()).mend(failure.remedy()))
        }
        (WatchdogMode::Automatic, Watchdog::Failed(failure)) => {
            Some(Finding::of(Check::WatchdogFailed, failure.to_string()).mend(failure.remedy()))
        }
        // Nothing is known as long as no guardian answers, and that is told.
        (
            WatchdogMode::Automatic | WatchdogMode::Required,
            Watchdog::Ready { .. } | Watchdog::Armed { .. } | Watchdog::Unknown | Watchdog::Off,
        ) => None,
    };
    if let Some(found) = found {
        ward.find(found.about(name));
    }
}

fn ends(facts: &Facts, certificate: &Certificate, name: &str, ward: &mut Ward) {
    let Certificate { setting, path, ends } = certificate;
    for check in [Check::CertificateExpired, Check::CertificateEnds, Check::CertificateUnreadable] {
        ward.made(check);
    }
    let now = facts.unix_ms / 1000;
    let span = |seconds| roughly(Span::from_secs(seconds));
    let found = match ends {
        Err(why) => Finding::of(Check::CertificateUnreadable, format!("{setting}: {why}")),
        Ok(ends) if *ends <= now => Finding::of(
            Check::CertificateExpired,
            format!("{setting}: {path} ended {} ago", span(now - ends)),
        ),
        Ok(ends) if ends - now < SOON_S => {
            Finding::of(Check::CertificateEnds, format!("{setting}: {path} ends in {}", span(ends - now)))
        }
        Ok(_) => return,
    };
    ward.find(found.about(name));
}

/// Where WAL piles up when it cannot be removed, and how long that takes at the primary's pace.
fn disks(member: &MemberFacts, host: &HostFacts, ward: &mut Ward) {
    let Some(server) = &host.postgres else { return };
    let bounded = server.number("max_slot_wal_keep_size").is_some_and(|limit| limit >= 0) && !server.archives;
    let Some(rate) = server.wal_bytes_per_hour.filter(|rate| *rate > 0) else { return };
    for DiskFacts { path, holds_wal, free_bytes, .. } in &host.disks {
        let (true, Some(free)) = (*holds_wal, *free_bytes) else { continue };
        let lasts =
            Span::from_secs(u64::try_from(u128::from(free) * 3_600 / u128::from(rate)).unwrap_or(u64::MAX));
        let measured = || {
            format!(
                "{path}: {} free, {} of WAL an hour on the average: full after {}",
                bytes(free),
                bytes(rate),
                roughly(lasts)
            )
        };
        ward.check(
            Check::DiskForecast,
            (lasts < FULL_SOON && !bounded)
                .then(|| Finding::of(Check::DiskForecast, measured()).about(&member.name)),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{NOW_S, finds, finds_nothing, host, server, view};
    use super::*;
    use crate::model::WatchdogFailure;

    #[test]
    fn guardian_and_watchdog_stand_behind_every_member() {
        finds(
            |facts| view(facts, 1).guardian = Guardian::Absent,
            &[(Check::NoGuardian, "db2", "no guardian")],
        );
        let broken = |mode| {
            move |facts: &mut Facts| {
                host(facts, 0).watchdog_mode = mode;
                view(facts, 0).watchdog = Watchdog::Failed(WatchdogFailure::Absent);
            }
        };
        finds(broken(WatchdogMode::Required), &[(Check::WatchdogMissing, "db1", "there is no such device")]);
        finds(broken(WatchdogMode::Automatic), &[(Check::WatchdogFailed, "db1", "there is no such device")]);
        finds(broken(WatchdogMode::Off), &[(Check::WatchdogOff, "db1", "watchdog.mode is off")]);
    }

    #[test]
    fn a_virtual_address_has_a_holder_and_no_rival() {
        let with = |standings: &[(Option<&str>, Option<&str>)]| {
            let address = "10.0.0.100/24 dev eth0";
            let standing = |(duplicate, failure): &(Option<&str>, Option<&str>)| AddressStanding {
                address: address.parse().expect("one"),
                held: true,
                duplicate: duplicate.map(str::to_owned),
                failure: failure.map(str::to_owned),
            };
            let standings: Vec<AddressStanding> = standings.iter().map(standing).collect();
            move |facts: &mut Facts| {
                host(facts, 0).virtual_addresses = vec![address.to_owned()];
                host(facts, 0).address_standings.clone_from(&standings);
            }
        };
        finds_nothing(with(&[(None, None)]));
        finds(with(&[]), &[(Check::NoAddressHolder, "db1", "tenure-address does not answer: 10.0.0.100/24")]);
        let troubled = |measured| [(Check::AddressTroubled, "db1", measured)];
        finds(
            with(&[(Some("02:00:00:00:00:0b"), None)]),
            &troubled("02:00:00:00:00:0b answers for 10.0.0.100/24"),
        );
        finds(with(&[(None, Some("add it: no"))]), &troubled("add it: no"));
    }

    #[test]
    fn secrets_are_for_one_user() {
        let open =
            |facts: &mut Facts| host(facts, 2).readable_secrets.push("/etc/tenure/main.yml".to_owned());
        let report = finds(open, &[(Check::SecretReadable, "db3", "/etc/tenure/main.yml can be read")]);
        assert_eq!(report.findings[0].remedy, "chmod o-r /etc/tenure/main.yml");
    }

    #[test]
    fn certificates_are_told_of_a_month_before() {
        let ending = |ends: Result<u64, &str>| {
            let ends = ends.map_err(str::to_owned);
            move |facts: &mut Facts| {
                let (setting, path) = ("restapi.certfile".to_owned(), "/etc/c.pem".to_owned());
                host(facts, 0).certificates = vec![Certificate { setting, path, ends: ends.clone() }];
            }
        };
        finds(
            ending(Ok(NOW_S - 7_200)),
            &[(Check::CertificateExpired, "db1", "/etc/c.pem ended 2 hours ago")],
        );
        finds(ending(Ok(NOW_S + 864_000)), &[(Check::CertificateEnds, "db1", "ends in 10 days")]);
        finds(
            ending(Err("no such file")),
            &[(Check::CertificateUnreadable, "db1", "restapi.certfile: no such file")],
        );
        finds_nothing(ending(Ok(NOW_S + 40 * 86_400)));
    }

    #[test]
    fn a_disk_that_would_fill_soon_is_foreseen() {
        let fast = |facts: &mut Facts| {
            host(facts, 0).disks = vec![DiskFacts {
                path: "/data".to_owned(),
                holds_wal: true,
                total_bytes: Some(200 << 30),
                free_bytes: Some(100 << 30),
            }];
            server(facts, 0).wal_bytes_per_hour = Some(20 << 30);
        };
        finds(
            fast,
            &[(
                Check::DiskForecast,
                "db1",
                "100.0 GB free, 20.0 GB of WAL an hour on the average: full after 5 hours",
            )],
        );
        finds_nothing(|facts| {
            fast(facts);
            server(facts, 0).settings.insert("max_slot_wal_keep_size".to_owned(), "4096".to_owned());
        });
        finds(|facts| view(facts, 0).disk.free_bytes = Some(1), &[(Check::DiskFull, "db1", "1 B are free")]);
        let stalled =
            |facts: &mut Facts| view(facts, 0).disk.unwritten_since = Some(crate::model::Moment::default());
        finds(stalled, &[(Check::Unfit, "db1", "unfit")]);
    }
}
