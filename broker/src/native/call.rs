//! One request on its way to its answer: it owns its admission and knows where the answer goes.

use std::sync::Arc;
use std::time::Duration;

use streambus_protocol::api::session::ErrorBody;
use streambus_protocol::api::{ApiKey, Message, Request, decode_body, encode_error, encode_response};
use streambus_protocol::error_code::ErrorCode;
use streambus_protocol::frame::{Frame, FrameHeader};
use streambus_protocol::ids::CorrelationId;
use tokio::time::Instant;

use crate::clock::Deadline;
use crate::metrics::BrokerMetrics;
use crate::net::admission::RequestPermit;
use crate::net::writer::Reply;

/// The answer's address and the request's admission. Every way out consumes it, so that no request is
/// forgotten and no budget leaks: a call that is dropped with its connection gives its permit back.
#[derive(Debug)]
#[must_use = "a request is answered, or said not to be"]
pub(crate) struct Call {
    api: ApiKey,
    correlation: CorrelationId,
    permit: RequestPermit,
    started: Instant,
    timeout: Duration,
    metrics: Arc<BrokerMetrics>,
}

impl Call {
    pub(crate) fn new(
        api: ApiKey,
        header: FrameHeader,
        permit: RequestPermit,
        timeout_default: Duration,
        metrics: Arc<BrokerMetrics>,
    ) -> Self {
        let timeout = match header.timeout_ms {
            0 => timeout_default,
            millis => Duration::from_millis(u64::from(millis)),
        };
        Self { api, correlation: header.correlation, permit, started: Instant::now(), timeout, metrics }
    }

    /// Where the answer goes.
    pub(crate) fn correlation(&self) -> CorrelationId {
        self.correlation
    }

    /// When the client gives up.
    pub(crate) fn deadline(&self) -> Deadline {
        Deadline::at(self.started + self.timeout)
    }

    /// Reads the request's message, or answers why it cannot be read. The frame was whole, so the connection goes on.
    pub(crate) fn decode<M: Request>(self, frame: Frame) -> Result<(M, Self), Reply> {
        match decode_body(frame) {
            Ok(message) => Ok((message, self)),
            Err(error) => {
                let api = self.api.as_str();
                Err(self.refuse(&ErrorBody::new(ErrorCode::MalformedRequest, format!("{api}: {error}"))))
            }
        }
    }

    /// The answer.
    pub(crate) fn answer<M: Message>(self, message: &M) -> Reply {
        self.metrics.request(self.api, Ok(()), self.started.elapsed());
        Reply { frame: encode_response(message, self.correlation), permit: Some(self.permit) }
    }

    /// The answer, or the error.
    pub(crate) fn finish<M: Message>(self, result: Result<M, ErrorBody>) -> Reply {
        match result {
            Ok(message) => self.answer(&message),
            Err(error) => self.refuse(&error),
        }
    }

    /// An error for an answer.
    pub(crate) fn refuse(self, error: &ErrorBody) -> Reply {
        self.metrics.request(self.api, Err(error.code), self.started.elapsed());
        Reply { frame: encode_error(self.api.to_wire(), self.correlation, error), permit: Some(self.permit) }
    }

    /// No answer: the request is one of those that have none.
    pub(crate) fn leave_unanswered(self, outcome: Result<(), ErrorCode>) {
        self.metrics.request(self.api, outcome, self.started.elapsed());
    }
}
