//! Receiving a metadata snapshot, step by step.

use bytes::Bytes;
use streambus_consensus::blocking;
use streambus_consensus::peer_door::PeerDoor;
use streambus_consensus::snapshot::SnapshotSink;
use streambus_protocol::api::peer::{RaftSnapshotRequest, RaftSnapshotResponse, SnapshotStep};
use streambus_protocol::api::session::ErrorBody;
use streambus_protocol::error_code::ErrorCode;
use tokio::sync::Mutex;

use crate::cluster::door::peer_error;

/// The transfer of one connection; a new one replaces one that was not finished.
#[derive(Default)]
pub(super) struct SnapshotTransfer {
    /// Locked over one step: the steps of a connection follow one another, and a step is some disk writes.
    open: Mutex<Option<Open>>,
}

struct Open {
    transfer: u32,
    header: Bytes,
    received: u64,
    sink: SnapshotSink,
}

impl SnapshotTransfer {
    /// Takes one step. After an error the transfer is abandoned.
    pub(super) async fn step(
        &self,
        door: &PeerDoor,
        request: RaftSnapshotRequest,
    ) -> Result<RaftSnapshotResponse, ErrorBody> {
        let mut place = self.open.lock().await;
        let open = place.take();
        match request.step {
            SnapshotStep::Begin { header } => {
                let door = door.clone();
                let sink = blocking(move || door.receive_snapshot().map_err(|error| peer_error(&error))).await?;
                *place = Some(Open { transfer: request.transfer, header, received: 0, sink });
                Ok(RaftSnapshotResponse { bytes: Bytes::new() })
            }
            SnapshotStep::Chunk { position, bytes } => {
                let mut open = expect(open, request.transfer, position)?;
                *place = Some(
                    blocking(move || {
                        open.sink.write(&bytes).map_err(|error| disk(&error))?;
                        open.received = open.received.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
                        Ok(open)
                    })
                    .await?,
                );
                Ok(RaftSnapshotResponse { bytes: Bytes::new() })
            }
            SnapshotStep::Finish { bytes_total } => {
                let Open { header, sink, .. } = expect(open, request.transfer, bytes_total)?;
                let file = blocking(move || sink.finish().map_err(|error| disk(&error))).await?;
                let answer = door.install_snapshot(&header, file).await.map_err(|error| peer_error(&error))?;
                Ok(RaftSnapshotResponse { bytes: answer.into() })
            }
        }
    }
}

fn expect(open: Option<Open>, transfer: u32, position: u64) -> Result<Open, ErrorBody> {
    let refuse = |what: String| Err(ErrorBody::new(ErrorCode::InvalidRequest, format!("snapshot {transfer}: {what}")));
    match open {
        Some(open) if open.transfer != transfer => refuse(format!("{} is being received", open.transfer)),
        Some(open) if open.received != position => {
            refuse(format!("{} bytes were received, the step is for {position}", open.received))
        }
        Some(open) => Ok(open),
        None => refuse("it was not begun on this connection".to_owned()),
    }
}

fn disk(error: &std::io::Error) -> ErrorBody {
    tracing::warn!(%error, "a metadata snapshot cannot be stored");
    ErrorBody::new(ErrorCode::StorageFailed, format!("the snapshot cannot be stored: {error}"))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ErrorBody> + Send + 'static,
) -> Result<T, ErrorBody> {
    match blocking::spawn(work).await {
        Ok(result) => result,
        Err(_interrupted) => Err(ErrorBody::new(ErrorCode::NotReady, "this broker is stopping")),
    }
}
