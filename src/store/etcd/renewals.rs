//! Keeping a lease alive on one stream. To begin a stream for each renewal is most of what a renewal costs, on both sides.

use etcd_client::{Client, LeaseKeepAliveStream, LeaseKeeper};

use super::fault::Fault;
use crate::model::SessionId;

/// A stream on which every question has been answered.
pub(super) struct Renewals {
    pub(super) session: SessionId,
    keeper: LeaseKeeper,
    answers: LeaseKeepAliveStream,
}

impl Renewals {
    /// With the first renewal.
    pub(super) async fn begin(client: &mut Client, session: SessionId) -> Result<Renewals, Fault> {
        let (keeper, answers) = client.lease_keep_alive(session.0).await?;
        Ok(Renewals { session, keeper, answers })
    }

    pub(super) async fn renew(&mut self) -> Result<(), Fault> {
        self.keeper.keep_alive().await?;
        match self.answers.message().await? {
            Some(answer) if 0 < answer.ttl() => Ok(()),
            Some(_) => Err(Fault::SessionGone),
            None => Err(Fault::unanswered("the stream has ended")),
        }
    }
}
