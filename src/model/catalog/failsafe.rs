//! The explanations of what concerns failsafe mode.

use super::super::Rule;
use super::{Explanation, rule};

pub const FAILSAFE: &[Explanation] = &[
    rule(
        Rule::LeaderByConsent,
        "The store does not answer this leader. It has asked every other member to leave the lease alone, and all agreed.",
        "Repair the store. If one member falls silent before it is back, the leader stops in time. See docs/failsafe.md.",
    ),
    rule(
        Rule::LeaderTakesAgain,
        "The store is back and has forgotten the lease. The leader that the others agreed to takes it again.",
        "Nothing: PostgreSQL was not stopped.",
    ),
    rule(
        Rule::LeaderHasPromised,
        "A request for the lease that had got no answer was granted after this member had agreed to leave it to another.",
        "Nothing: it is given back, and the other one takes it.",
    ),
    rule(
        Rule::CandidateNotAsked,
        "In failsafe mode only the members named in the `failsafe` key may take the lease; this one came back later.",
        "Bring one of those back, or decide that this one leads: `tenurectl failover --candidate` with its name.",
    ),
];
