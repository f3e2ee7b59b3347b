//! Logs in quarantine on this broker's disk: listed, and removed one by one by an operator's word.

use std::time::Duration;

use streambus_protocol::api::session::ErrorBody;
use streambus_protocol::api::strays::{
    DiscardStrayRequest, DiscardStrayResponse, ListStraysRequest, ListStraysResponse, StrayDescription,
};
use streambus_protocol::error_code::ErrorCode;
use streambus_protocol::ids::BrokerId;

use crate::clock::Deadline;
use crate::partition::discard::{Discard, DiscardError, StrayDesk};
use crate::partition::quarantine::Stray;
use crate::service::directory::Directory;
use crate::service::refusal;

/// Logs in one answer; more are counted.
const LISTED_MAX: usize = 1_000;
/// How long a majority may take to confirm the metadata before a log is removed.
const CONFIRM_MAX: Duration = Duration::from_secs(5);

/// Answers for the quarantine of this broker.
#[derive(Debug)]
pub struct StrayService {
    directory: Directory,
    desk: StrayDesk,
}

impl StrayService {
    /// A service over what `desk` knows, on the broker of `directory`.
    pub fn new(directory: Directory, desk: StrayDesk) -> Self {
        Self { directory, desk }
    }

    /// The logs in quarantine.
    ///
    /// # Errors
    /// `WRONG_BROKER` when another broker is meant.
    pub fn list(&self, request: ListStraysRequest) -> Result<ListStraysResponse, ErrorBody> {
        self.is_meant(request.broker)?;
        let strays = self.desk.strays();
        let unlisted = u32::try_from(strays.len().saturating_sub(LISTED_MAX)).unwrap_or(u32::MAX);
        Ok(ListStraysResponse { strays: strays.iter().take(LISTED_MAX).map(described).collect(), unlisted })
    }

    /// Removes one of them.
    ///
    /// # Errors
    /// `WRONG_BROKER`; `NO_CONTROLLER` when no majority confirms the metadata; `INVALID_REQUEST` when the log is not in
    /// quarantine, is wanted, goes by itself or is not what was listed; those of the store; `TIMEOUT` when it may be removed.
    pub async fn discard(
        &self,
        request: DiscardStrayRequest,
        deadline: Deadline,
    ) -> Result<DiscardStrayResponse, ErrorBody> {
        self.is_meant(request.broker)?;
        let metadata = self.directory.metadata();
        // A round through the quorum: what is deleted does not come back, so that a lease is not enough.
        let confirmed = metadata.read_index_within(deadline.left().min(CONFIRM_MAX)).await;
        confirmed.map_err(|error| {
            let text =
                format!("nothing was removed: what this broker knows of the cluster may be old: {error}; try again");
            ErrorBody::new(ErrorCode::NoController, text)
        })?;
        let DiscardStrayRequest { log: id, records, bytes, .. } = request;
        let discarding = self.desk.discard(Discard { id, records, bytes }, metadata.image());
        match deadline.limit(discarding).await {
            Some(Ok(_)) => Ok(DiscardStrayResponse {}),
            Some(Err(error)) => Err(refused(&error)),
            None => {
                let text = format!("the log {id} may be removed by now: list the logs in quarantine again");
                Err(ErrorBody::new(ErrorCode::Timeout, text))
            }
        }
    }

    fn is_meant(&self, broker: BrokerId) -> Result<(), ErrorBody> {
        let here = self.directory.broker();
        match broker == here {
            true => Ok(()),
            false => Err(ErrorBody::new(ErrorCode::WrongBroker, format!("this is broker {here}, not broker {broker}"))),
        }
    }
}

fn described(stray: &Stray) -> StrayDescription {
    let Stray { log, doubt } = stray;
    StrayDescription {
        log: log.id,
        records: log.records,
        bytes: log.bytes,
        newest_epoch: log.newest_epoch,
        passing: doubt.is_passing(),
        reason: doubt.to_string(),
    }
}

fn refused(error: &DiscardError) -> ErrorBody {
    match error {
        DiscardError::NotInQuarantine { .. }
        | DiscardError::Wanted { .. }
        | DiscardError::Passing { .. }
        | DiscardError::Changed { .. } => {
            ErrorBody::new(ErrorCode::InvalidRequest, format!("nothing was removed: {error}"))
        }
        DiscardError::Store { source, .. } => refusal::store(source),
        // It may have been removed just before.
        DiscardError::Interrupted => ErrorBody::new(ErrorCode::Timeout, error.to_string()),
    }
}
