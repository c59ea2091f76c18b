//! Another cluster that this one follows: how to reach it, and what it says of itself.

use serde::{Deserialize, Serialize};

use super::{Address, Lineage, Moment, SystemId};

/// `standby_cluster` of the dynamic configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remote {
    /// The host may be a list, with commas; libpq tries them in turn. None where WAL comes from an archive alone.
    pub address: Option<Address>,
    pub slot: Option<String>,
    pub restore_command: Option<String>,
    pub archive_cleanup_command: Option<String>,
    pub apply_delay: Option<String>,
}

/// What a server of the other cluster has said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteStanding {
    pub asked_at: Moment,
    pub system: SystemId,
    pub lineage: Lineage,
}

impl Remote {
    /// Does this `primary_conninfo` point there? What is seen of a list is its first host.
    pub fn is_at(&self, seen: Option<&Address>) -> bool {
        let first = |address: &Address| Address {
            host: address.host.split(',').next().unwrap_or_default().trim().to_owned(),
            port: address.port,
        };
        self.address.as_ref().map(first) == seen.map(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_host_of_a_list_stands_for_it() {
        let at = |host: &str, port| Address { host: host.to_owned(), port };
        let remote = Remote { address: Some(at("a,b", 5432)), ..Remote::default() };
        assert!(remote.is_at(Some(&at("a", 5432))) && remote.is_at(Some(&at("a,b", 5432))));
        assert!(
            !remote.is_at(Some(&at("b", 5432))) && !remote.is_at(Some(&at("a", 1))) && !remote.is_at(None)
        );
        assert!(Remote::default().is_at(None), "from an archive it follows no address");
    }
}
