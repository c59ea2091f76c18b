//! May every member replicate and rewind from this one? By the lines of its pg_hba.conf, and by what its roles may do.

use super::{Admission, Check, Entry, Finding, MemberFacts, RoleFacts, Ward, listed};

pub fn examine(member: &MemberFacts, ward: &mut Ward) {
    let Some(server) = member.postgres() else { return };
    // Where nobody rewinds, nobody needs to be let in for it.
    let rewinds = member.view.as_ref().map_or(true, |view| view.policy.use_rewind);
    ward.made(Check::HbaBroken);
    for error in &server.hba_errors {
        ward.find(Finding::of(Check::HbaBroken, error.clone()).about(&member.name));
    }
    let trusts = listed(server.hba_trusts.iter().map(String::as_str));
    ward.check(
        Check::HbaTrust,
        (!trusts.is_empty()).then(|| Finding::of(Check::HbaTrust, trusts).about(&member.name)),
    );
    let refused = server.gate_refused.as_ref();
    ward.check(
        Check::GateRefused,
        refused.map(|why| Finding::of(Check::GateRefused, why.clone()).about(&member.name)),
    );
    ward.made(Check::HbaUnknown);
    for admission in &server.admissions {
        let Admission { member: other, address, replication, rewind } = admission;
        let replicator = &server.replication_role.name;
        // A bare address would want its mask in a column of its own.
        let bits = if address.contains(':') { 128 } else { 32 };
        let line = format!("host replication {replicator} {address}/{bits} scram-sha-256");
        let asked = format!("{other} ({address}) as {replicator} for replication");
        entry(Check::HbaReplication, replication, &asked, &line, &member.name, ward);
        if rewinds {
            let rewinder = &server.rewind_role.name;
            let line = format!("host all {rewinder} {address}/{bits} scram-sha-256");
            let asked = format!("{other} ({address}) as {rewinder} for pg_rewind");
            entry(Check::HbaRewind, rewind, &asked, &line, &member.name, ward);
        }
    }
    role(Check::RoleReplication, &server.replication_role, &member.name, ward);
    if rewinds {
        role(Check::RoleRewind, &server.rewind_role, &member.name, ward);
    }
}

fn entry(check: Check, entry: &Entry, asked: &str, line: &str, name: &str, ward: &mut Ward) {
    ward.made(check);
    let found = match entry {
        Entry::Admitted { .. } => return,
        Entry::Perhaps { line } => Finding::of(Check::HbaUnknown, format!("{asked}: line {line}")),
        Entry::Rejected { line: refusing } => {
            Finding::of(check, format!("{asked}: line {refusing} refuses it"))
                .mend(format!("put before that line, in postgresql.pg_hba: {line}"))
        }
        Entry::NoLine => Finding::of(check, format!("{asked}: no line lets it in"))
            .mend(format!("add to postgresql.pg_hba: {line}")),
    };
    ward.find(found.about(name));
}

fn role(check: Check, role: &RoleFacts, name: &str, ward: &mut Ward) {
    let lacks = listed(role.lacks.iter().map(String::as_str));
    let measured = format!("{} lacks {lacks}", role.name);
    ward.check(check, (!lacks.is_empty()).then(|| Finding::of(check, measured).about(name)));
}

#[cfg(test)]
mod tests {
    use super::super::Facts;
    use super::super::fixtures::{finds, finds_nothing, server, view};
    use super::*;

    #[test]
    fn every_member_must_be_let_in_by_every_other() {
        let refused = |facts: &mut Facts| server(facts, 0).admissions[0].replication = Entry::NoLine;
        let report = finds(
            refused,
            &[(Check::HbaReplication, "db1", "db2 (10.0.0.2) as replicator for replication: no line")],
        );
        assert!(report.findings[0].remedy.ends_with("host replication replicator 10.0.0.2/32 scram-sha-256"));
        let refused = |facts: &mut Facts| server(facts, 0).admissions[0].rewind = Entry::Rejected { line: 7 };
        finds(
            refused,
            &[(Check::HbaRewind, "db1", "db2 (10.0.0.2) as rewinder for pg_rewind: line 7 refuses it")],
        );
        finds_nothing(|facts| {
            refused(facts);
            view(facts, 0).policy.use_rewind = false;
        });
        let doubtful = |facts: &mut Facts| server(facts, 0).admissions[0].rewind = Entry::Perhaps { line: 7 };
        finds(doubtful, &[(Check::HbaUnknown, "db1", "line 7")]);
    }

    #[test]
    fn roles_must_be_able_to_do_their_work() {
        let lacking = |what: &str| vec![what.to_owned()];
        finds(
            |facts| server(facts, 1).replication_role.lacks = lacking("REPLICATION"),
            &[(Check::RoleReplication, "db2", "replicator lacks REPLICATION")],
        );
        finds(
            |facts| server(facts, 1).rewind_role.lacks = lacking("EXECUTE ON pg_ls_dir"),
            &[(Check::RoleRewind, "db2", "rewinder lacks EXECUTE ON pg_ls_dir")],
        );
    }

    #[test]
    fn broken_lines_and_open_doors_are_told_of() {
        finds(
            |facts| server(facts, 2).hba_errors.push("line 4: invalid".to_owned()),
            &[(Check::HbaBroken, "db3", "line 4: invalid")],
        );
        finds(
            |facts| server(facts, 2).hba_trusts.push("line 9: host all all 0.0.0.0".to_owned()),
            &[(Check::HbaTrust, "db3", "line 9")],
        );
        finds(
            |facts| server(facts, 0).gate_refused = Some("line 3: it includes another file".to_owned()),
            &[(Check::GateRefused, "db1", "line 3: it includes another file")],
        );
    }
}
