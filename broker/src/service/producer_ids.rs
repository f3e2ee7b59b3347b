//! Identities for idempotent producers (KIP-98), handed out of blocks that the metadata group gives this broker.

use streambus_consensus::command::Command;
use streambus_protocol::api::produce::{InitProducerRequest, InitProducerResponse};
use streambus_protocol::api::session::ErrorBody;
use streambus_protocol::error_code::ErrorCode;
use streambus_protocol::ids::{ProducerEpoch, ProducerId};
use tokio::sync::Mutex;

use crate::clock::Deadline;
use crate::service::directory::Directory;
use crate::service::refusal;

/// Identities of one block: few enough to waste at a restart, enough that a proposal is rare.
const BLOCK_IDS: u32 = 1_000;

/// Hands out producer identities.
#[derive(Debug)]
pub struct ProducerIdService {
    directory: Directory,
    /// Held over the proposal, so that one block is fetched however many ask.
    block: Mutex<IdBlock>,
}

/// The identities left: `next` inclusive, `end` exclusive.
#[derive(Clone, Copy, Debug, Default)]
struct IdBlock {
    next: i64,
    end: i64,
}

impl ProducerIdService {
    /// A service with no block yet.
    pub fn new(directory: Directory) -> Self {
        Self { directory, block: Mutex::default() }
    }

    /// A new identity, or the next epoch of one. An exhausted epoch gets a new id.
    ///
    /// # Errors
    /// Those of a metadata change; an identity that was drawn and not delivered is never given to anybody else.
    pub async fn init(
        &self,
        request: InitProducerRequest,
        deadline: Deadline,
    ) -> Result<InitProducerResponse, ErrorBody> {
        if let Some((id, epoch)) = request.producer {
            if id.get() < 0 || epoch.get() < 0 {
                return Err(ErrorBody::new(
                    ErrorCode::InvalidRequest,
                    "a producer's id and epoch are never negative: ask without one to get a new identity",
                ));
            }
            if let Some(next) = epoch.get().checked_add(1).filter(|next| *next < i16::MAX) {
                return Ok(InitProducerResponse { id, epoch: ProducerEpoch::new(next) });
            }
        }
        let id = deadline.limit(self.draw()).await.unwrap_or_else(|| Err(refusal::metadata_timeout()))?;
        Ok(InitProducerResponse { id, epoch: ProducerEpoch::new(0) })
    }

    async fn draw(&self) -> Result<ProducerId, ErrorBody> {
        let mut block = self.block.lock().await;
        if block.next >= block.end {
            *block = self.fetch_block().await?;
        }
        let id = block.next;
        block.next += 1;
        Ok(ProducerId::new(id))
    }

    async fn fetch_block(&self) -> Result<IdBlock, ErrorBody> {
        let broker = self.directory.broker();
        let image = self.directory.image();
        let Some(registered) = image.brokers.get(&broker) else {
            return Err(ErrorBody::new(ErrorCode::NotReady, "this broker is not registered yet: try again shortly"));
        };
        let command = Command::AllocateProducerIds { broker, broker_epoch: registered.epoch, count: BLOCK_IDS };
        let outcome = self.directory.metadata().propose(command).await.map_err(|error| refusal::propose(&error))?;
        let (next, end) = refusal::producer_ids(outcome)?;
        Ok(IdBlock { next, end })
    }
}
