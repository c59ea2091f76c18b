//! The explanations of what no rule says: what the guardian did and reports, drills, a start, and virtual addresses.

use super::super::Notice;
use super::{Explanation, Message};

const fn notice(notice: Notice, meaning: &'static str, advice: &'static str) -> Explanation {
    Explanation { message: Message::Notice(notice), meaning, advice }
}

pub const NOTICES: &[Explanation] = &[
    notice(
        Notice::GuardianKilled,
        "The guardian killed every process of this PostgreSQL, because its term ran out and no newer deadline had come, \
         because the agent asked for it, or because it was started again after that. It could not acknowledge any more \
         writes.",
        "`tenurectl list` on another machine shows whether somebody leads now. The agent should have stopped PostgreSQL \
         by itself before: find out why it did not (a hang, memory, processors, a crash). The member comes back by \
         itself, after a crash recovery.",
    ),
    notice(
        Notice::KillReported,
        "The agent has read the guardian's report: PostgreSQL was killed because the term ran out, or was asked to be.",
        "See the guardian's own line, in the journal of tenure-fence@, for when, why and how long it took.",
    ),
    notice(
        Notice::GuardianGone,
        "The connection to the guardian has ended. A new guardian is looked for or started at once; until it answers, a \
         leader does not renew its lease.",
        "Nothing, if it is back at once. Otherwise look at the unit tenure-fence@ of this instance and its journal.",
    ),
    notice(
        Notice::DrillAsked,
        "Somebody has asked for a drill (`tenurectl drill`), which tenure.drills of this member allows: it now brings a fault \
         upon itself. The line says who asked, and for which fault.",
        "Nothing: whoever asked has a report of it. What follows is what that fault does.",
    ),
    notice(
        Notice::DrillInVain,
        "In a drill the guardian was stopped, so that nobody fed the watchdog device any more. The device should have reset this \
         machine and has not. The guardian goes on; it kills PostgreSQL at once if the term has run out meanwhile.",
        "Do not rely on this device: a guardian or a kernel that hangs is fenced by nobody. See docs/fencing.md for how to set one \
         up, and drill again.",
    ),
    notice(
        Notice::StartedWithoutGate,
        "synchronous_gate is on, and the gate could not be made from pg_hba.conf: the line says why. PostgreSQL was started all the \
         same, with everybody let in at once: until the synchronous standbys have caught up, clients may read commits that a \
         failover would lose.",
        "Change pg_hba.conf so that the gate can be made from it; docs/synchronous.md says what it must not use. It is tried again \
         at the next start.",
    ),
    notice(
        Notice::AddressTaken,
        "This member is primary, its promotion has ended, and a virtual address is now on its interface. The neighbours are told \
         several times.",
        "Nothing: clients of the address are here from now on.",
    ),
    notice(
        Notice::AddressReleased,
        "A virtual address was taken off its interface, because this member is not primary any more, or because its deadline came \
         and no later one was told. The line says which.",
        "Nothing after a switchover. After a deadline: find out why the agent said nothing; the line of the agent or of the guardian \
         at the same time tells.",
    ),
    notice(
        Notice::AddressDuplicate,
        "Another host answers for a virtual address while this member has it or is about to take it. It has been taken all the same, since \
         the lease proves that no other member may have it, and the neighbours are told again and again. The line names the other \
         host's link-layer address.",
        "Find that host (`ip neigh`, the switch) and take the address from it: a second manager such as keepalived or vip-manager, \
         a host that has the address for good, or a network that answers in the place of hosts. docs/virtual-address.md.",
    ),
    notice(
        Notice::AddressFailed,
        "The kernel refused to add, remove or announce a virtual address. PostgreSQL and the lease are not concerned.",
        "The line says what was tried and why it failed. See that the interface is there and up, and that the unit tenure-address@ of \
         this instance has its capabilities.",
    ),
    notice(
        Notice::AddressHolderGone,
        "tenure.virtual_addresses names addresses, and tenure-address, which would hold them, does not answer. A primary here has \
         no virtual address, or loses it with its present lease.",
        "`systemctl enable --now tenure-address@INSTANCE`, or see its journal. It has to be restarted after a change of \
         tenure.virtual_addresses. docs/virtual-address.md.",
    ),
];
