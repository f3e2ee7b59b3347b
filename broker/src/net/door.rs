//! What a listener leads to: something that handles the frames of its connections.

use std::fmt::Debug;
use std::net::SocketAddr;
use std::sync::Arc;

use streambus_protocol::frame::{Frame, FrameError};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::metrics::BrokerMetrics;
use crate::net::admission::{Activity, RequestPermit};
use crate::net::writer::Work;

/// What the connections of one listener share.
pub(crate) trait Door: Debug + Send + Sync {
    /// Where traffic is counted.
    fn metrics(&self) -> &Arc<BrokerMetrics>;

    /// True when its connections count as clients.
    fn is_for_clients(&self) -> bool;

    /// The receiving side of a new connection.
    fn open(self: Arc<Self>, connection: Opened) -> Box<dyn FrameHandler>;
}

/// A connection whose preface was right.
pub(crate) struct Opened {
    /// Who connected.
    pub(crate) peer: SocketAddr,
    /// Cancelled when the connection ends or the broker drains: whatever waits answers with what it has.
    pub(crate) closing: CancellationToken,
    /// Takes what is to be sent.
    pub(crate) work: mpsc::UnboundedSender<Work>,
    /// Kept, also by streams, so that the connection does not count as idle.
    pub(crate) activity: Activity,
}

/// The receiving side of one connection.
pub(crate) trait FrameHandler: Send {
    /// Handles one frame. What can be done at once is done here, in the order of arrival.
    fn handle(&mut self, frame: Frame, permit: RequestPermit) -> After;

    /// Answers bytes that are no frame; the connection cannot go on, because nobody knows where the next one starts.
    fn refuse_broken_frame(&mut self, error: &FrameError);
}

/// What the reading half does after a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum After {
    /// Reads on.
    Read,
    /// Lifts the limits of the handshake and reads on.
    HandshakeCompleted,
    /// Reads no more.
    Stop,
}
