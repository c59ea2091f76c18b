//! What must be so before a drill begins. Pure: facts in, one verdict for each guard out. Nothing is done while one of them fails that was not
//! overridden by its name.

use jiff::civil::Time;

use super::Fault;
use super::situation::{Able, Situation};
use crate::doctor::{self, Severity};
use crate::model::{Contact, Drill, Watchdog};

macro_rules! guards {
    ($($name:ident = $code:literal $weight:ident;)*) => {
        /// One thing that must be so.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Guard {
            $($name,)*
        }

        impl Guard {
            pub const ALL: &[Guard] = &[$(Guard::$name),*];

            pub fn code(self) -> &'static str {
                match self { $(Guard::$name => $code,)* }
            }

            fn weight(self) -> Weight {
                match self { $(Guard::$name => Weight::$weight,)* }
            }
        }
    };
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Weight {
    /// Without it a drill is no drill but an accident, or cannot be done at all.
    Absolute,
    /// An operator may know better, and says so by its name.
    Overridable,
}

guards! {
    Leader = "leader" Absolute;
    Writable = "writable" Absolute;
    Allowed = "allowed" Absolute;
    Candidate = "candidate" Absolute;
    Spare = "spare" Overridable;
    Standbys = "standbys" Overridable;
    Store = "store" Overridable;
    Paused = "paused" Absolute;
    Scheduled = "scheduled" Overridable;
    UnderWay = "under_way" Absolute;
    Guardian = "guardian" Absolute;
    Watchdog = "watchdog" Absolute;
    Backup = "backup" Overridable;
    Doctor = "doctor" Overridable;
    Window = "window" Absolute;
    Route = "route" Absolute;
}

/// How it stands with one guard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    pub guard: Guard,
    pub found: Found,
    /// It fails, and the operator wants to go on all the same.
    pub overridden: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    Holds(String),
    Fails { measured: String, remedy: String },
}

/// What the operator has said that guards depend on.
#[derive(Clone, Debug, Default)]
pub struct Said {
    pub candidate: Option<String>,
    pub window: Option<Window>,
    pub backup_checked: bool,
    pub overridden: Vec<Guard>,
}

/// A time of the day, by the clock on the operator's wall; it may go over midnight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    from: Time,
    to: Time,
}

impl Guard {
    pub fn may_be_overridden(self) -> bool {
        self.weight() == Weight::Overridable
    }
}

impl std::str::FromStr for Guard {
    type Err = String;

    /// Only what may be overridden.
    fn from_str(text: &str) -> Result<Guard, String> {
        let may = || Guard::ALL.iter().copied().filter(|guard| guard.may_be_overridden());
        let names = || may().map(Guard::code).collect::<Vec<_>>().join(", ");
        match Guard::ALL.iter().copied().find(|guard| guard.code() == text) {
            Some(guard) if guard.may_be_overridden() => Ok(guard),
            Some(_) => Err(format!("the guard {text} cannot be overridden; these can: {}", names())),
            None => Err(format!("there is no guard {text}; these can be overridden: {}", names())),
        }
    }
}

impl std::str::FromStr for Window {
    type Err = String;

    fn from_str(text: &str) -> Result<Window, String> {
        let time = |text: &str| Time::strptime("%H:%M", text.trim()).ok();
        let times = text.split_once('-').and_then(|(from, to)| Some((time(from)?, time(to)?)));
        match times {
            Some((from, to)) if from != to => Ok(Window { from, to }),
            Some(_) | None => Err("wanted are two times of the day, such as 02:00-04:00".to_owned()),
        }
    }
}

impl std::fmt::Display for Window {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.from.strftime("%H:%M"), self.to.strftime("%H:%M"))
    }
}

impl Window {
    pub fn holds(self, now: Time) -> bool {
        if self.from < self.to {
            self.from <= now && now < self.to
        } else {
            self.from <= now || now < self.to
        }
    }
}

impl Checked {
    pub fn refuses(&self) -> bool {
        matches!(self.found, Found::Fails { .. }) && !self.overridden
    }
}

fn holds(measured: impl Into<String>) -> Found {
    Found::Holds(measured.into())
}

fn fails(measured: impl Into<String>, remedy: impl Into<String>) -> Found {
    Found::Fails { measured: measured.into(), remedy: remedy.into() }
}

/// All of them, in the order in which people read them. `now` is the time of the day where the operator sits.
pub fn examine(fault: Fault, situation: &Situation, said: &Said, now: Time) -> Vec<Checked> {
    let found = |guard: Guard| match guard {
        Guard::Leader => leader(situation),
        Guard::Writable => writable(situation),
        Guard::Allowed => allowed(fault, situation),
        Guard::Candidate => candidate(fault, situation, said),
        Guard::Spare => spare(situation),
        Guard::Standbys => standbys(situation),
        Guard::Store => store(situation),
        Guard::Paused => paused(situation),
        Guard::Scheduled => scheduled(situation),
        Guard::UnderWay => under_way(situation),
        Guard::Guardian => guardian(situation),
        Guard::Watchdog => watchdog(fault, situation),
        Guard::Backup => backup(situation, said),
        Guard::Doctor => doctors_word(situation),
        Guard::Window => window(said, now),
        Guard::Route => route(situation),
    };
    let checked = |guard: Guard| {
        let found = found(guard);
        let overridden = matches!(found, Found::Fails { .. })
            && guard.may_be_overridden()
            && said.overridden.contains(&guard);
        Checked { guard, found, overridden }
    };
    Guard::ALL.iter().copied().map(checked).collect()
}

fn leader(situation: &Situation) -> Found {
    let see = "`tenurectl list`, `tenurectl explain`";
    let Some(name) = &situation.facts.leader else { return fails("nobody leads", see) };
    let Some(member) = situation.leading() else {
        return fails(format!("{name} leads, and has no record in the store"), see);
    };
    if member.foreign {
        return holds(format!("{name} leads; it is one of Patroni's, and its agent says little of itself"));
    }
    match &member.view {
        Err(why) => fails(format!("{name} leads, and its agent does not answer: {why}"), see),
        Ok(view) if view.lease_in_force().is_none() => {
            fails(format!("{name} holds no lease that lasts"), see)
        }
        Ok(view) if !view.postgres.is_primary() => {
            fails(format!("the PostgreSQL of {name} is no primary"), see)
        }
        Ok(view) if view.postgres.running().is_some_and(|running| running.silent_since.is_some()) => {
            fails(format!("the PostgreSQL of {name} does not answer"), see)
        }
        Ok(view) if view.store.contact != Contact::Current => {
            fails(format!("the store does not answer {name}"), "`tenurectl doctor`")
        }
        Ok(_) => holds(format!("{name} leads, and its PostgreSQL answers")),
    }
}

fn writable(situation: &Situation) -> Found {
    if situation.follows_another {
        return fails(
            "this is a standby cluster: nobody in it accepts writes",
            "drill in the cluster that it follows",
        );
    }
    holds("the cluster follows no other one")
}

/// A switchover is what every member does on request.
fn allowed(fault: Fault, situation: &Situation) -> Found {
    let Some(drill) = fault.drill() else { return holds("a switchover needs no permission of a member") };
    let Some(member) = situation.leading() else {
        return fails("there is no leader to ask", "`tenurectl list`");
    };
    let name = &member.name;
    if member.foreign {
        let remedy = "only a switchover can be drilled on it; docs/migration.md";
        return fails(format!("{name} is one of Patroni's, which brings no faults upon itself"), remedy);
    }
    match member.host_facts() {
        None => fails(format!("the agent of {name} does not say what it allows"), "`tenurectl doctor`"),
        Some(host) if host.drills.contains(&drill) => holds(format!("{name} allows a drill of {drill}")),
        Some(host) => {
            let all: Vec<&str> = host.drills.iter().copied().chain([drill]).map(Drill::word).collect();
            let remedy = format!(
                "set tenure.drills: [{}] in its configuration, and `tenurectl reload`",
                all.join(", ")
            );
            fails(format!("{name} does not allow a drill of {drill}"), remedy)
        }
    }
}

/// Somebody must be able to take over, by the rules that would decide it.
fn candidate(fault: Fault, situation: &Situation, said: &Said) -> Found {
    let able = situation.able();
    let names: Vec<&str> = able.iter().map(|(name, _)| name.as_str()).collect();
    if let Some(wanted) = &said.candidate {
        return match situation.standbys.get(wanted.as_str()) {
            Some(Able::Yes) => holds(format!("{wanted} could take over")),
            Some(Able::No(why)) => {
                fails(format!("{wanted} could not take over: {why}"), "name another candidate")
            }
            None => fails(format!("{wanted} is no other member"), "name another candidate"),
        };
    }
    if names.is_empty() {
        let why: Vec<String> =
            situation.standbys.iter().map(|(name, able)| format!("{name}: {able}")).collect();
        let measured = if why.is_empty() { "there is no other member".to_owned() } else { why.join("; ") };
        return fails(
            format!("nobody could take over ({measured})"),
            "`tenurectl explain --if primary-lost`",
        );
    }
    match &situation.takes {
        Some(takes) if takes.is_empty() && fault != Fault::Switchover && !situation.facts.paused => fails(
            "by the rules of the members nobody would take over now",
            "`tenurectl explain --if primary-lost`",
        ),
        Some(takes) if fault != Fault::Switchover && !takes.is_empty() => {
            holds(format!("if it comes to that, {} would take over", takes.join(" or ")))
        }
        Some(_) | None => holds(format!("{} could take over", names.join(" or "))),
    }
}

/// Whoever takes over must not be the last one.
fn spare(situation: &Situation) -> Found {
    let able: Vec<&str> = situation.able().into_iter().map(|(name, _)| name.as_str()).collect();
    match able.len() {
        0 | 1 => fails(
            format!(
                "{} can take over: during the drill nobody would be left to take over from it",
                one_of(&able)
            ),
            "bring another standby up to date, or --override spare",
        ),
        _ => holds(format!("{} could take over: one of them is left", able.join(" and "))),
    }
}

fn one_of(names: &[&str]) -> String {
    if names.is_empty() { "nobody".to_owned() } else { format!("only {}", names.join(" and ")) }
}

fn standbys(situation: &Situation) -> Found {
    let wrong: Vec<String> = (situation.standbys.iter())
        .filter(|(_, able)| !matches!(able, Able::Yes))
        .map(|(name, able)| format!("{name}: {able}"))
        .collect();
    if wrong.is_empty() {
        return holds(format!("every other member streams and could lead ({})", situation.standbys.len()));
    }
    fails(wrong.join("; "), "`tenurectl explain MEMBER`; if that is as it should be, --override standbys")
}

fn store(situation: &Situation) -> Found {
    let see = "`tenurectl doctor`; docs/stores.md";
    let store = match &situation.facts.store {
        Ok(store) => store,
        Err(why) => return fails(format!("the store does not answer: {why}"), see),
    };
    let answering = store.servers.iter().filter(|server| server.state.is_ok()).count();
    let voters = store.voters.unwrap_or(store.servers.len()).max(1);
    let majority = voters / 2 + 1;
    let measured = format!("{answering} of {voters} servers of the store answer, and {majority} are needed");
    if answering <= majority {
        let remedy = "a drill must not be the second fault: run three servers and bring all of them up, or --override store";
        return fails(format!("{measured}: none may fail"), remedy);
    }
    let alarms = store.servers.iter().filter_map(|server| server.state.as_ref().ok());
    let alarms: Vec<&str> = alarms.flat_map(|state| state.alarms.iter().map(String::as_str)).collect();
    if alarms.is_empty() {
        holds(measured)
    } else {
        fails(format!("the store has alarms: {}", alarms.join(", ")), see)
    }
}

fn paused(situation: &Situation) -> Found {
    if situation.facts.paused {
        return fails("maintenance mode is on: nothing would be done about a fault", "`tenurectl resume`");
    }
    holds("maintenance mode is off")
}

fn scheduled(situation: &Situation) -> Found {
    if situation.scheduled.is_empty() {
        return holds("nothing is scheduled");
    }
    fails(situation.scheduled.join("; "), "`tenurectl flush`, or --override scheduled if its time is far off")
}

fn under_way(situation: &Situation) -> Found {
    if situation.under_way.is_empty() {
        return holds("no member has work under way");
    }
    fails(situation.under_way.join("; "), "wait until it has ended")
}

fn guardian(situation: &Situation) -> Found {
    let see = "`systemctl status tenure-fence@INSTANCE`; docs/fencing.md";
    if situation.leading().is_some_and(|member| member.foreign) {
        return holds("the leader is one of Patroni's, and has no guardian");
    }
    match situation.leader_view() {
        None => fails("the leader does not say how its guardian is", see),
        Some(view) if view.guardian.is_armed(view.now) => holds("the guardian of the leader is armed"),
        Some(_) => fails("the guardian of the leader is not armed: nobody would stop its PostgreSQL", see),
    }
}

fn watchdog(fault: Fault, situation: &Situation) -> Found {
    if fault != Fault::Host {
        return holds("only a drill of the host needs it");
    }
    match situation.leader_view().map(|view| view.watchdog) {
        Some(watchdog @ Watchdog::Armed { .. }) => holds(format!("the device of the leader is {watchdog}")),
        Some(watchdog) => fails(
            format!("the watchdog device of the leader is {watchdog}: nothing would reset its machine"),
            "docs/fencing.md, \"Setting it up\"",
        ),
        None => fails("the leader does not say how its watchdog is", "`tenurectl explain`"),
    }
}

/// PostgreSQL does not know of base backups, and whether one can be restored nobody knows who has not tried.
fn backup(situation: &Situation, said: &Said) -> Found {
    if said.backup_checked {
        return holds("you have said that there is a backup which can be restored");
    }
    let remedy = "restore a backup elsewhere, then say --backup-checked";
    let Some(facts) = situation.leading().and_then(|member| member.postgres()) else {
        return fails("PostgreSQL does not tell whether it archives its WAL", remedy);
    };
    if !facts.archives || facts.archives_nowhere {
        return fails("WAL is not archived, and of other backups nothing is known here", remedy);
    }
    if let Some(segment) = &facts.archive_fails_at {
        return fails(format!("archiving fails at {segment}: a backup would have a gap"), remedy);
    }
    holds("WAL is archived; whether there is a base backup PostgreSQL does not know")
}

fn doctors_word(situation: &Situation) -> Found {
    let report = doctor::examine(&situation.facts);
    let errors = report.findings.iter().filter(|finding| finding.check.severity() == Severity::Error);
    let told: Vec<String> = errors
        .map(|finding| {
            let about = finding.member.as_ref().map(|member| format!(" on {member}")).unwrap_or_default();
            format!("{}{about}", finding.check)
        })
        .collect();
    if told.is_empty() {
        return holds("`tenurectl doctor` finds no errors");
    }
    let remedy = "see `tenurectl doctor`; if none of it has to do with a failover, --override doctor";
    fails(format!("`tenurectl doctor` finds {}", told.join(", ")), remedy)
}

fn window(said: &Said, now: Time) -> Found {
    let clock = now.strftime("%H:%M");
    match said.window {
        None => holds("no window was given (--window)"),
        Some(window) if window.holds(now) => holds(format!("it is {clock}, within {window}")),
        Some(window) => {
            fails(format!("it is {clock} here, outside of {window}"), "wait, or name another window")
        }
    }
}

fn route(situation: &Situation) -> Found {
    let see = "name the way that your clients take with --route, -U and -d; passwords as for psql";
    let served = match &situation.route {
        Err(why) => return fails(why.clone(), see),
        Ok(served) => served,
    };
    let to = &served.server;
    if served.in_recovery {
        return fails(format!("the route leads to {to}, which is a standby"), see);
    }
    match served.may_create {
        None => return fails("there is no such schema", "name one with --schema"),
        Some(false) => {
            return fails(
                "the user may not make a table in the schema",
                "GRANT CREATE ON SCHEMA, or name another with --schema",
            );
        }
        Some(true) => {}
    }
    let wanted =
        situation.leader_view().and_then(|view| view.postgres.running()).map(|running| running.system.0);
    match (served.system, wanted) {
        (Some(there), Some(here)) if there != here => {
            fails(format!("the route leads to {to}, which is of another cluster"), see)
        }
        (Some(_), Some(_)) => holds(format!("it leads to {to}, a primary of this very cluster")),
        (None, _) | (_, None) => {
            holds(format!("it leads to {to}, a primary; of which cluster it may not tell"))
        }
    }
}

#[cfg(test)]
mod tests;
