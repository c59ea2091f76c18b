//! The words between an agent and its guardian: one datagram asks, one datagram answers. Text, so that a person with
//! `socat` can read along; bounded, so that neither side ever allocates for it. No sockets here.

use std::fmt::{self, Write};

use crate::model::{Moment, Term, Watchdog};

mod device;

use device::write_watchdog;
pub use device::{DEVICE_MAX, Watch};

/// Every datagram begins with this. A guardian that reads another version refuses and says its own.
pub const VERSION: &str = "tenure-fence/1";

/// Longer ones are refused unread.
pub const DATAGRAM_MAX: usize = 2048;

/// The longest path that may be told.
pub const PATH_MAX: usize = 512;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// Kill PostgreSQL at `fence_at`. Without a target, the one told before stays.
    Arm {
        term: Term,
        fence_at: Moment,
        target: Option<Target<'a>>,
    },
    /// Whom to kill; changes no deadline.
    Aim(Target<'a>),
    /// No PostgreSQL here can accept writes.
    Disarm {
        term: Term,
    },
    /// Kill now what would be killed at the end of this term.
    Fence {
        term: Term,
    },
    /// Which watchdog device is to stand behind the guardian whenever it is armed.
    Watch(Watch<'a>),
    Unwatch,
    Status,
    /// The report with this number has been read and may be forgotten.
    Acknowledge {
        report: u32,
    },
}

/// What an agent knows of its PostgreSQL. Nothing of it is needed: what runs in the data directory is found anyway.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Target<'a> {
    pub postmaster: Option<Process>,
    /// The directory of a control group that holds this PostgreSQL and nothing else.
    pub cgroup: Option<&'a str>,
}

/// A process id means one process only together with when that process began (field 22 of its `stat`, clock ticks).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    pub pid: i32,
    pub start: u64,
}

/// Every answer: what was refused, if anything, and what is now in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer<'a> {
    pub refused: Option<Refusal>,
    pub standing: Standing,
    pub report: Option<Report>,
    pub data_dir: &'a str,
}

/// What a guardian stands for at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    pub state: State,
    /// The postmaster that is held, if one was told and lives.
    pub postmaster: Option<Process>,
    pub means: Means,
    /// Allocations since the start was over: more than none is a fault of ours.
    pub allocations: u64,
    pub watchdog: Watchdog,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    #[default]
    Idle,
    Armed {
        term: Term,
        fence_at: Moment,
    },
    Killing {
        term: Term,
        fence_at: Moment,
    },
    /// Nothing of PostgreSQL is left, and nothing is let up again before somebody disarms or arms anew.
    Fenced {
        term: Term,
        fence_at: Moment,
    },
}

/// By what PostgreSQL would be killed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Means {
    /// Process by process.
    #[default]
    Tree,
    /// All at once by the kernel, then process by process whatever lives elsewhere.
    Cgroup,
}

/// The last kill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    pub number: u32,
    pub term: Term,
    pub why: Why,
    pub means: Means,
    pub fence_at: Moment,
    pub began_at: Moment,
    /// When nothing was left; none as long as something is.
    pub ended_at: Option<Moment>,
    /// How many processes were found.
    pub processes: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The term ran out.
    Deadline,
    /// The agent asked for it.
    Ordered,
    /// PostgreSQL was started again after the term had run out.
    Returned,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Not one of our words, or too long.
    Malformed,
    Version,
    /// A newer term is armed.
    OlderTerm,
    /// A later moment is in force for this term.
    EarlierDeadline,
    /// The moment has passed already.
    Past,
    /// A kill is under way and will be finished first.
    Killing,
    /// That term is not armed.
    NotArmed,
    /// The control group holds the guardian itself.
    OwnCgroup,
}

impl State {
    pub fn term(self) -> Option<Term> {
        match self {
            State::Idle => None,
            State::Armed { term, .. } | State::Killing { term, .. } | State::Fenced { term, .. } => {
                Some(term)
            }
        }
    }
}

impl<'a> Request<'a> {
    pub fn write(&self, line: &mut impl Write) -> fmt::Result {
        match self {
            Request::Arm { term, fence_at, target } => {
                write!(line, "{VERSION} arm term={term} fence_at={}", fence_at.as_ms())?;
                target.map_or(Ok(()), |target| target.write(line))
            }
            Request::Aim(target) => {
                write!(line, "{VERSION} aim")?;
                target.write(line)
            }
            Request::Disarm { term } => write!(line, "{VERSION} disarm term={term}"),
            Request::Fence { term } => write!(line, "{VERSION} fence term={term}"),
            Request::Watch(watch) => {
                write!(line, "{VERSION} watch")?;
                watch.write(line)
            }
            Request::Unwatch => write!(line, "{VERSION} unwatch"),
            Request::Status => write!(line, "{VERSION} status"),
            Request::Acknowledge { report } => write!(line, "{VERSION} acknowledge report={report}"),
        }
    }

    pub fn parse(datagram: &'a [u8]) -> Result<Request<'a>, Refusal> {
        let text = str::from_utf8(datagram).map_err(|_| Refusal::Malformed)?.trim_end_matches('\n');
        let (version, text) = text.split_once(' ').ok_or(Refusal::Malformed)?;
        if version != VERSION {
            return Err(Refusal::Version);
        }
        let (verb, rest) = text.split_once(' ').unwrap_or((text, ""));
        let fields = Fields::of(rest, if verb == "watch" { "device=" } else { "cgroup=" });
        let request = match verb {
            "arm" => fields.arm(),
            "aim" => fields.target().map(Request::Aim),
            "disarm" => fields.number("term").map(|term| Request::Disarm { term: Term(term) }),
            "fence" => fields.number("term").map(|term| Request::Fence { term: Term(term) }),
            "watch" => fields.watch().map(Request::Watch),
            "unwatch" => Some(Request::Unwatch),
            "status" => Some(Request::Status),
            "acknowledge" => fields
                .number("report")
                .and_then(|number| u32::try_from(number).ok())
                .map(|report| Request::Acknowledge { report }),
            _ => None,
        };
        request.ok_or(Refusal::Malformed)
    }
}

impl Target<'_> {
    fn write(&self, line: &mut impl Write) -> fmt::Result {
        let process = self.postmaster.unwrap_or(Process { pid: 0, start: 0 });
        write!(line, " pid={} start={}", process.pid, process.start)?;
        self.cgroup.map_or(Ok(()), |path| write!(line, " cgroup={path}"))
    }
}

impl<'a> Answer<'a> {
    pub fn write(&self, line: &mut impl Write) -> fmt::Result {
        match self.refused {
            None => write!(line, "{VERSION} ok")?,
            Some(refusal) => write!(line, "{VERSION} refused={}", refusal.word())?,
        }
        let standing = &self.standing;
        match standing.state {
            State::Idle => write!(line, " state=idle")?,
            State::Armed { term, fence_at } => write_state(line, "armed", term, fence_at)?,
            State::Killing { term, fence_at } => write_state(line, "killing", term, fence_at)?,
            State::Fenced { term, fence_at } => write_state(line, "fenced", term, fence_at)?,
        }
        if let Some(Process { pid, start }) = standing.postmaster {
            write!(line, " pid={pid} start={start}")?;
        }
        write!(line, " means={} allocations={}", standing.means.word(), standing.allocations)?;
        write_watchdog(line, standing.watchdog)?;
        if let Some(report) = &self.report {
            report.write(line)?;
        }
        write!(line, " data_dir={}", self.data_dir)
    }

    /// `None` for what no guardian of this version says.
    pub fn parse(datagram: &'a [u8]) -> Option<Answer<'a>> {
        let text = str::from_utf8(datagram).ok()?.strip_prefix(VERSION)?.strip_prefix(' ')?;
        let fields = Fields::of(text, "data_dir=");
        let refused = match fields.text("refused") {
            Some(word) => Some(Refusal::ALL.into_iter().find(|refusal| refusal.word() == word)?),
            None => None,
        };
        let state = match fields.text("state")? {
            "idle" => State::Idle,
            word => {
                let (term, fence_at) = (Term(fields.number("term")?), fields.moment("fence_at")?);
                match word {
                    "armed" => State::Armed { term, fence_at },
                    "killing" => State::Killing { term, fence_at },
                    "fenced" => State::Fenced { term, fence_at },
                    _ => return None,
                }
            }
        };
        let standing = Standing {
            state,
            postmaster: fields.process(),
            means: Means::parse(fields.text("means")?)?,
            allocations: fields.number("allocations")?,
            watchdog: fields.watchdog()?,
        };
        let report = if fields.text("report").is_some() { Some(fields.report()?) } else { None };
        Some(Answer { refused, standing, report, data_dir: fields.path? })
    }
}

fn write_state(line: &mut impl Write, word: &str, term: Term, fence_at: Moment) -> fmt::Result {
    write!(line, " state={word} term={term} fence_at={}", fence_at.as_ms())
}

impl Report {
    fn write(&self, line: &mut impl Write) -> fmt::Result {
        let Report { number, term, why, means, fence_at, began_at, ended_at, processes } = self;
        write!(line, " report={number} killed_term={term} killed_why={}", why.word())?;
        write!(line, " killed_means={} killed_processes={processes}", means.word())?;
        write!(line, " killed_fence_at={} killed_began_at={}", fence_at.as_ms(), began_at.as_ms())?;
        ended_at.map_or(Ok(()), |at| write!(line, " killed_ended_at={}", at.as_ms()))
    }
}

impl Means {
    pub fn word(self) -> &'static str {
        match self {
            Means::Tree => "tree",
            Means::Cgroup => "cgroup",
        }
    }

    fn parse(word: &str) -> Option<Means> {
        [Means::Tree, Means::Cgroup].into_iter().find(|means| means.word() == word)
    }
}

impl Why {
    pub fn word(self) -> &'static str {
        match self {
            Why::Deadline => "deadline",
            Why::Ordered => "ordered",
            Why::Returned => "returned",
        }
    }
}

impl Refusal {
    pub const ALL: [Refusal; 8] = [
        Refusal::Malformed,
        Refusal::Version,
        Refusal::OlderTerm,
        Refusal::EarlierDeadline,
        Refusal::Past,
        Refusal::Killing,
        Refusal::NotArmed,
        Refusal::OwnCgroup,
    ];

    fn word(self) -> &'static str {
        match self {
            Refusal::Malformed => "malformed",
            Refusal::Version => "version",
            Refusal::OlderTerm => "older_term",
            Refusal::EarlierDeadline => "earlier_deadline",
            Refusal::Past => "past",
            Refusal::Killing => "killing",
            Refusal::NotArmed => "not_armed",
            Refusal::OwnCgroup => "own_cgroup",
        }
    }

    pub fn sentence(self) -> &'static str {
        match self {
            Refusal::Malformed => "the guardian does not understand this",
            Refusal::Version => "the guardian speaks another version",
            Refusal::OlderTerm => "a newer term is armed",
            Refusal::EarlierDeadline => "a later deadline is in force for this term",
            Refusal::Past => "the deadline has passed already",
            Refusal::Killing => "PostgreSQL is being killed",
            Refusal::NotArmed => "this term is not armed",
            Refusal::OwnCgroup => "the control group holds the guardian itself",
        }
    }
}

/// `key=value` words; the last key takes the rest of the text, because a path may hold spaces. Unknown keys are passed
/// over, so that a later version can add some.
struct Fields<'a> {
    words: &'a str,
    path: Option<&'a str>,
}

impl<'a> Fields<'a> {
    fn of(text: &'a str, path_key: &str) -> Fields<'a> {
        let at = if text.starts_with(path_key) {
            Some(0)
        } else {
            text.match_indices(path_key).map(|(at, _)| at).find(|at| text[..*at].ends_with(' '))
        };
        match at {
            Some(at) => Fields { words: &text[..at], path: Some(&text[at + path_key.len()..]) },
            None => Fields { words: text, path: None },
        }
    }

    fn text(&self, key: &str) -> Option<&'a str> {
        self.words.split(' ').find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
    }

    fn number(&self, key: &str) -> Option<u64> {
        self.text(key)?.parse().ok()
    }

    fn moment(&self, key: &str) -> Option<Moment> {
        self.number(key).map(Moment::from_ms)
    }

    fn process(&self) -> Option<Process> {
        let pid = i32::try_from(self.number("pid")?).ok()?;
        Some(Process { pid, start: self.number("start")? }).filter(|process| process.pid > 0)
    }

    fn arm(&self) -> Option<Request<'a>> {
        let target = if self.text("pid").is_some() { Some(self.target()?) } else { None };
        Some(Request::Arm { term: Term(self.number("term")?), fence_at: self.moment("fence_at")?, target })
    }

    /// The pid must be there; 0 says that none is known.
    fn target(&self) -> Option<Target<'a>> {
        let pid = i32::try_from(self.number("pid")?).ok()?;
        let postmaster = match (pid, self.number("start")?) {
            (0, _) => None,
            // Never the init of this world, whatever somebody says.
            (1, _) => return None,
            (pid, start) => Some(Process { pid, start }),
        };
        if self.path.is_some_and(|path| path.len() > PATH_MAX || !path.starts_with('/')) {
            return None;
        }
        Some(Target { postmaster, cgroup: self.path })
    }

    fn report(&self) -> Option<Report> {
        let word = self.text("killed_why")?;
        let why = [Why::Deadline, Why::Ordered, Why::Returned].into_iter().find(|why| why.word() == word)?;
        Some(Report {
            number: self.number("report")?.try_into().ok()?,
            term: Term(self.number("killed_term")?),
            why,
            means: Means::parse(self.text("killed_means")?)?,
            fence_at: self.moment("killed_fence_at")?,
            began_at: self.moment("killed_began_at")?,
            ended_at: self.moment("killed_ended_at"),
            processes: self.number("killed_processes")?.try_into().ok()?,
        })
    }
}

#[cfg(test)]
mod tests;
