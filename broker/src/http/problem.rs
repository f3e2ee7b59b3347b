//! Refusals as `application/problem+json` (RFC 9457), with our error code beside the standard's members.

use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use serde::Serialize;
use streambus_protocol::api::session::ErrorBody;
use streambus_protocol::error_code::{Applied, ErrorCode};

use super::body::{Answer, bytes_of, with_body};

/// Why a request was refused. Becomes the answer through [`Problem::into_answer`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What kind of refusal.
    pub code: ProblemCode,
    /// The thing, the limit, the remedy.
    pub detail: String,
    /// Which parts of the request are wrong, when that can be said.
    pub errors: Vec<PartError>,
}

/// A refusal's kind: one of the product's codes, or one that only HTTP has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProblemCode {
    /// The product's own.
    Broker(ErrorCode),
    /// No such path.
    UnknownPath,
    /// The path exists, the method does not; the methods it has.
    MethodNotAllowed(&'static str),
    /// The body has a content type that is not read here.
    UnsupportedMediaType,
    /// The request names a host that this broker is not.
    ForeignHost,
}

/// One wrong part of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PartError {
    /// Where, as a JSON pointer (RFC 6901) into the body, or a query parameter's name.
    pub pointer: String,
    /// What is wrong with it.
    pub detail: String,
    /// The error code's text.
    pub code: &'static str,
}

impl ProblemCode {
    /// The stable text, in capitals.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Broker(code) => code.as_str(),
            Self::UnknownPath => "UNKNOWN_PATH",
            Self::MethodNotAllowed(_) => "METHOD_NOT_ALLOWED",
            Self::UnsupportedMediaType => "UNSUPPORTED_MEDIA_TYPE",
            Self::ForeignHost => "FOREIGN_HOST",
        }
    }

    fn status(self) -> StatusCode {
        let status = match self {
            Self::Broker(code) => code.http_status(),
            Self::UnknownPath => 404,
            Self::MethodNotAllowed(_) => 405,
            Self::UnsupportedMediaType => 415,
            Self::ForeignHost => 421,
        };
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

impl Problem {
    /// A refusal without parts.
    pub fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        Self { code: ProblemCode::Broker(code), detail: detail.into(), errors: Vec::new() }
    }

    /// A value of the request is not acceptable.
    pub fn invalid(detail: impl Into<String>) -> Self {
        Self::new(ErrorCode::InvalidRequest, detail)
    }

    /// A refusal that only HTTP has.
    pub fn http(code: ProblemCode, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), errors: Vec::new() }
    }

    /// Names a wrong part.
    #[must_use]
    pub fn at(mut self, pointer: impl Into<String>) -> Self {
        let (code, detail) = (self.code.as_str(), self.detail.clone());
        self.errors.push(PartError { pointer: pointer.into(), detail, code });
        self
    }

    /// The answer to the request of this id.
    pub fn into_answer(self, request_id: &str) -> Response<Answer> {
        let code = self.code.as_str();
        let status = self.code.status();
        let document = Document {
            kind: format!("/problems/{}", code.to_lowercase().replace('_', "-")),
            title: title(code),
            status: status.as_u16(),
            detail: &self.detail,
            code,
            request_id,
            retriable: matches!(self.code, ProblemCode::Broker(code) if code.is_retriable()),
            applied: match self.code {
                ProblemCode::Broker(code) => match code.applied() {
                    Applied::No => "no",
                    Applied::Unknown => "unknown",
                },
                _ => "no",
            },
            errors: &self.errors,
        };
        let mut answer = with_body(status, "application/problem+json", bytes_of(&document));
        debug_assert!(answer.headers().contains_key(CONTENT_TYPE));
        if let ProblemCode::MethodNotAllowed(allow) = self.code {
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
        }
        if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        answer
    }
}

impl From<ErrorBody> for Problem {
    fn from(error: ErrorBody) -> Self {
        Self::new(error.code, error.message)
    }
}

/// The members in the order in which people read them.
#[derive(Serialize)]
struct Document<'a> {
    #[serde(rename = "type")]
    kind: String,
    title: String,
    status: u16,
    detail: &'a str,
    code: &'static str,
    /// Whether the same request may succeed later.
    retriable: bool,
    /// Whether the request may have changed something: `no` or `unknown`.
    applied: &'static str,
    request_id: &'a str,
    #[serde(skip_serializing_if = "<[PartError]>::is_empty")]
    errors: &'a [PartError],
}

/// `UNKNOWN_TOPIC` as `Unknown topic`.
fn title(code: &str) -> String {
    let words = code.to_lowercase().replace('_', " ");
    let mut letters = words.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}
