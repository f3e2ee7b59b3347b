//! How a request on one connection can fail.

use std::io;
use std::sync::Arc;

use streambus_protocol::api::session::ErrorBody;
use streambus_protocol::error_code::Applied;

use crate::error::Error;

/// Why a request got no answer, or a refusal.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// The transport failed. `sent` says whether the request may have left before that.
    #[error("{source}")]
    Io { source: Arc<io::Error>, sent: bool },
    /// No answer in time; the request was sent.
    #[error("no answer in time")]
    TimedOut,
    /// The broker broke the protocol.
    #[error("{0}")]
    Protocol(String),
    /// The broker answered with an error.
    #[error("{}: {}", .0.code, .0.message)]
    Refused(ErrorBody),
    /// The client was closed.
    #[error("closed")]
    Closed,
}

impl CallError {
    pub(crate) fn io(kind: io::ErrorKind, text: &str, sent: bool) -> Self {
        Self::Io { source: Arc::new(io::Error::new(kind, text.to_owned())), sent }
    }

    /// The same failure of a request that may have left.
    pub(crate) fn after_sending(self) -> Self {
        match self {
            Self::Io { source, .. } => Self::Io { source, sent: true },
            // What left before the client was closed may be carried out all the same.
            Self::Closed => Self::io(io::ErrorKind::ConnectionAborted, "the client was closed", true),
            other => other,
        }
    }

    /// The public error, naming the broker's address. `mutates` is false for reads, whose outcome leaves no doubt.
    pub(crate) fn into_error(self, addr: &str, mutates: bool) -> Error {
        let doubt = |sent: bool| if mutates && sent { Applied::Unknown } else { Applied::No };
        match self {
            Self::Io { source, sent } => Error::Io { addr: addr.to_owned(), source, outcome: doubt(sent) },
            Self::TimedOut => Error::Io {
                addr: addr.to_owned(),
                source: Arc::new(io::Error::new(io::ErrorKind::TimedOut, "the broker did not answer in time")),
                outcome: doubt(true),
            },
            Self::Protocol(reason) => Error::Protocol { addr: addr.to_owned(), reason, outcome: doubt(true) },
            Self::Refused(body) => Error::from_body(body),
            Self::Closed => Error::Closed,
        }
    }
}
