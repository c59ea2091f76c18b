//! Our transactions in ZooKeeper's words. Its checks compare how often a znode's data was written since it was made, ours when it
//! was written and by whom. So we look first, check for ourselves what we saw, and write on the condition that nothing of what
//! we looked at has changed.
//!
//! A count begins anew with a znode that is deleted and made again. Of the leader key that may happen between look and write:
//! the `witnesses` of a transaction are there to notice it, because whoever leads next has written the claim.

use std::collections::{BTreeMap, BTreeSet};

use super::connection::Connection;
use super::ensemble::Ensemble;
use super::fault::Fault;
use super::look::{self, Znode};
use super::message::{ANY_VERSION, Code, Request};
use crate::model::SessionId;
use crate::store::kv::{Must, Transaction, Verdict, Write};

/// How often others may interfere.
const CHANGES_MAX: usize = 20;

/// Carries a transaction out, on the connection of the session that it writes for, if it does.
pub(super) async fn transact(
    connection: &Connection,
    transaction: &Transaction,
    ensemble: &Ensemble,
) -> Result<Verdict, Fault> {
    let place = |path: &str| ensemble.place(path);
    // Witnesses first: what happened since they were looked at is noticed, so it must be before everything else.
    let written = transaction.writes.iter().map(Write::path);
    let looked_at = transaction.checks.iter().map(|check| &check.path).chain(&transaction.look_at);
    let mut paths: Vec<(String, String)> = Vec::new();
    for path in transaction.witnesses.iter().chain(looked_at).map(String::as_str).chain(written) {
        if !paths.iter().any(|(known, _)| known == path) {
            paths.push((path.to_owned(), place(path)));
        }
    }
    for _ in 0..CHANGES_MAX {
        let (znodes, zxid) = look::at(connection, &paths).await?;
        let entry = |path: &String| znodes.get(path).map(|znode| &znode.entry);
        if !transaction.checks.iter().all(|check| check.must.holds(entry(&check.path))) {
            let seen = transaction.look_at.iter().map(|path| entry(path).cloned()).collect();
            return Ok(Verdict::Failed { seen });
        }
        let operations = operations(transaction, &znodes, place, connection.session);
        if operations.is_empty() {
            return Ok(Verdict::Done { revision: zxid });
        }
        let reply = connection.ask(Request::Multi(operations)).await?;
        match reply.multi_failure()? {
            None => return Ok(Verdict::Done { revision: reply.zxid }),
            Some(Code::NoNode) => {
                for write in &transaction.writes {
                    make_parents(connection, &place(write.path())).await?;
                }
            }
            Some(Code::BadVersion | Code::NodeExists) => {}
            Some(code) => return Err(Fault::of(code)),
        }
    }
    Err(Fault::unanswered("others keep changing what was looked at"))
}

fn operations(
    transaction: &Transaction,
    znodes: &BTreeMap<String, Znode>,
    place: impl Fn(&str) -> String,
    ours: SessionId,
) -> Vec<Request> {
    let written: BTreeSet<&str> = transaction.writes.iter().map(Write::path).collect();
    let checked = transaction.checks.iter().map(|check| check.path.as_str());
    let unwritten: BTreeSet<&str> = (transaction.witnesses.iter().map(String::as_str))
        .chain(checked)
        .filter(|path| !written.contains(path))
        .collect();
    let mut operations = Vec::new();
    for path in unwritten {
        if let Some(znode) = znodes.get(path) {
            operations.push(Request::Check { path: place(path), version: znode.version });
        } else if transaction.checks.iter().any(|check| check.path == path && check.must == Must::BeAbsent)
            && !transaction.writes.is_empty()
        {
            // There is no check for what is not there; that it can be made is one.
            operations.push(Request::Create { path: place(path), data: Vec::new(), ephemeral: false });
            operations.push(Request::Delete { path: place(path), version: ANY_VERSION });
        }
    }
    for write in &transaction.writes {
        let (path, znode) = (place(write.path()), znodes.get(write.path()));
        match (write, znode) {
            (Write::Delete { .. }, None) => {}
            (Write::Delete { .. }, Some(znode)) => {
                operations.push(Request::Delete { path, version: znode.version });
            }
            (Write::Put { value, session, .. }, Some(znode)) if znode.entry.session == *session => {
                operations.push(Request::SetData { path, data: value.clone(), version: znode.version });
            }
            (Write::Put { value, session, .. }, znode) => {
                debug_assert!(session.is_none_or(|session| session == ours), "it hangs on who creates it");
                // On which session a znode hangs is settled when it is made.
                if let Some(znode) = znode {
                    operations.push(Request::Delete { path: path.clone(), version: znode.version });
                }
                operations.push(Request::Create { path, data: value.clone(), ephemeral: session.is_some() });
            }
        }
    }
    operations
}

/// Deletes everything below, and the place itself. What is written meanwhile may stay.
pub(super) async fn remove(connection: &Connection, path: &str, place: &str) -> Result<(), Fault> {
    for _ in 0..CHANGES_MAX {
        let reading = look::below(connection, path, place, look::Watching::No).await?;
        let base = path.trim_end_matches('/');
        let deepest_first = reading.entries.iter().rev();
        let all = deepest_first
            .map(|entry| format!("{place}{}", entry.path.strip_prefix(base).unwrap_or_default()));
        let delete = |path: String| Request::Delete { path, version: ANY_VERSION };
        let deletes = all.chain([place.to_owned()]).map(delete).collect();
        let replies = connection.ask_all(deletes).await?;
        let failure = replies.iter().find_map(|reply| reply.code.filter(|code| *code != Code::NoNode));
        match failure {
            None => return Ok(()),
            Some(Code::NotEmpty) => {}
            Some(code) => return Err(Fault::of(code)),
        }
    }
    Err(Fault::unanswered("others keep writing there"))
}

/// Everything above a path, from the first that is missing.
async fn make_parents(connection: &Connection, path: &str) -> Result<(), Fault> {
    let mut missing = Vec::new();
    let mut above = path;
    while let Some((parent, _)) = above.rsplit_once('/').filter(|(parent, _)| !parent.is_empty()) {
        match connection.ask(Request::Exists { path: parent.to_owned(), watch: false }).await?.code {
            None => break,
            Some(Code::NoNode) => missing.push(parent),
            Some(code) => return Err(Fault::of(code)),
        }
        above = parent;
    }
    for parent in missing.into_iter().rev() {
        let create = Request::Create { path: parent.to_owned(), data: Vec::new(), ephemeral: false };
        match connection.ask(create).await?.code {
            None | Some(Code::NodeExists) => {}
            Some(code) => return Err(Fault::of(code)),
        }
    }
    Ok(())
}
