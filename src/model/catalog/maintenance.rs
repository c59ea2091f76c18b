//! The explanations of what concerns maintenance mode.

use super::super::Rule;
use super::{Explanation, rule};

pub const MAINTENANCE: &[Explanation] = &[
    rule(
        Rule::PauseEnds,
        "Maintenance mode was begun with an end, and that has come. From now on members are promoted and demoted by themselves again.",
        "Nothing, if the work is done. Otherwise begin it again: `tenurectl pause --for 30m`. See docs/maintenance.md.",
    ),
    rule(
        Rule::RestartStarts,
        "In maintenance mode PostgreSQL has been stopped for a restart that somebody asked for, and is started again.",
        "Nothing.",
    ),
];
