//! How far a partition is, for whoever waits on it; and the wait for an acknowledgement.

use std::sync::Arc;

use streambus_planted::{Defect, is_planted};
use streambus_protocol::api::session::ErrorBody;
use streambus_protocol::epoch::LeaderEpoch;
use streambus_protocol::error_code::ErrorCode;
use streambus_protocol::offset::Offset;
use streambus_protocol::topic_config::Durability;

use crate::partition::Partition;
use crate::replication::leader_state::LeaderState;

/// What a partition has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The end of what is committed, for a partition that other brokers hold too.
    pub high_watermark: Offset,
    /// The leadership of this broker, while it leads.
    pub leads: Option<LeaderEpoch>,
    /// Whether as many replicas are in sync as the topic demands.
    pub has_enough_in_sync: bool,
    /// What being committed says about replicas and disks.
    pub committed: Committed,
    /// While it leads: no follower in sync has given up more than what lies below; none when nobody else is in sync.
    pub followers_start: Option<Offset>,
    /// Grows when the role changes.
    pub version: u64,
}

/// What is known, without asking anybody, of everything below the watermarks: followers have said it to a leader, this one or
/// one before it. Nothing of a partition that has no followers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    /// Everything below is on `disks` disks. The high watermark, unless the topic was `async` lately.
    pub durable_watermark: Offset,
    /// So many replicas have what lies below the high watermark: while this broker leads, those in sync.
    pub replicas: usize,
    /// So many of them have on disk what lies below the durable watermark.
    pub disks: usize,
}

impl Committed {
    pub(super) fn of(state: &LeaderState) -> Self {
        Self {
            durable_watermark: state.durable_watermark(),
            replicas: state.in_sync_count(),
            disks: state.durable_count(),
        }
    }
}

/// Completes once everything below `next`, which was appended in the leadership of `epoch` or before it, is committed, on
/// disks while the topic is `sync`, and says what is known of it then. Safe to drop at any time.
///
/// # Errors
/// The append's outcome is then unknown: `NOT_ENOUGH_REPLICAS_AFTER_APPEND` when replicas left the in-sync set,
/// `LEADERSHIP_LOST` when this broker no longer leads in that epoch.
pub(crate) async fn committed(
    partition: Arc<Partition>,
    next: Offset,
    epoch: LeaderEpoch,
) -> Result<Committed, ErrorBody> {
    let mut moves = partition.watch_standing();
    let mut own_disk = partition.log().watch_durable_end();
    loop {
        // Seen first, looked at second: a move in between wakes us again, none is missed.
        let standing = *moves.borrow_and_update();
        drop(own_disk.borrow_and_update());
        if standing.leads != Some(epoch) && !is_planted(Defect::StaleEpochCommit) {
            return Err(ErrorBody::new(
                ErrorCode::LeadershipLost,
                format!(
                    "the leadership of epoch {epoch} ended before the batch was committed: it may yet be; refresh the \
                     metadata and send it again"
                ),
            )
            .with_leader(partition.role().leader_hint()));
        }
        // The watermarks and the replicas behind them are from one moment: later ones may not count a replica that left.
        let watermark = match partition.log().options().durability {
            Durability::Sync if is_planted(Defect::StaleEpochCommit) => standing.high_watermark,
            Durability::Sync => standing.committed.durable_watermark,
            Durability::Async => standing.high_watermark,
        };
        if watermark >= next {
            return Ok(standing.committed);
        }
        if !partition.role().is_replicated() && partition.high_watermark() >= next {
            return Ok(Committed::default());
        }
        if !standing.has_enough_in_sync {
            return Err(ErrorBody::new(
                ErrorCode::NotEnoughReplicasAfterAppend,
                "replicas left the in-sync set before the batch was committed: it may yet be; send it again once they \
                 are back",
            ));
        }
        let moved = tokio::select! {
            biased;
            moved = moves.changed() => moved,
            moved = own_disk.changed() => moved,
        };
        if moved.is_err() {
            // The log is gone, and with it who could commit. Whoever waits has a deadline.
            std::future::pending::<()>().await;
        }
    }
}

/// Completes once every follower in sync has said, in the leadership of `epoch`, that its log starts at `start` or above.
/// Safe to drop at any time.
///
/// # Errors
/// `LEADERSHIP_LOST` when this broker no longer leads in that epoch.
pub(crate) async fn trimmed(partition: Arc<Partition>, start: Offset, epoch: LeaderEpoch) -> Result<(), ErrorBody> {
    let mut moves = partition.watch_standing();
    loop {
        // Seen first, looked at second: a move in between wakes us again, none is missed.
        let standing = *moves.borrow_and_update();
        if standing.leads != Some(epoch) {
            return Err(ErrorBody::new(
                ErrorCode::LeadershipLost,
                format!(
                    "the leadership of epoch {epoch} ended before every replica in sync had given up what lies below \
                     {start}: refresh the metadata and trim again"
                ),
            )
            .with_leader(partition.role().leader_hint()));
        }
        if standing.followers_start.is_none_or(|followers| followers >= start) {
            return Ok(());
        }
        if moves.changed().await.is_err() {
            // The partition is gone. Whoever waits has a deadline.
            std::future::pending::<()>().await;
        }
    }
}
