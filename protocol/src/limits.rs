//! Every limit of the wire, in one place, related by compile-time assertions.

/// Bytes of a frame's fixed header, the length field included.
pub const FRAME_HEADER_BYTES: usize = 24;
/// The largest frame a broker accepts by default, header included: one record batch of the largest size and slack.
pub const FRAME_BYTES_MAX: usize = 16 * 1024 * 1024;
/// The largest frame before the handshake has completed.
pub const FRAME_BYTES_MAX_BEFORE_HANDSHAKE: usize = 64 * 1024;
/// The most a decoder reserves ahead of the bytes that have arrived.
pub const READ_AHEAD_BYTES_MAX: usize = 256 * 1024;
/// What a decoder reserves for a connection that has not announced a frame yet.
pub const READ_IDLE_BYTES: usize = 4 * 1024;
/// The largest body (all of a frame but header and record bytes).
pub const FRAME_BODY_BYTES_MAX: usize = 4 * 1024 * 1024;
/// The default and the ceiling of a topic's `max.message.bytes`.
pub const BATCH_BYTES_MAX_DEFAULT: usize = 1024 * 1024 + 12;
/// The largest record batch any topic may allow.
pub const BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Records in one batch.
pub const BATCH_RECORDS_MAX: usize = 1_000_000;
/// Headers on one record.
pub const RECORD_HEADERS_MAX: usize = 1_024;
/// A decompressed batch may be at most this many times `max.message.bytes`.
pub const DECOMPRESSED_FACTOR_MAX: usize = 4;
/// Bytes of a topic name.
pub const TOPIC_NAME_BYTES_MAX: usize = 249;
/// Bytes of any other string on the wire (client id, configuration value, error message).
pub const STRING_BYTES_MAX: usize = 32 * 1024;
/// Partitions of one topic.
pub const PARTITIONS_PER_TOPIC_MAX: u32 = 10_000;
/// Partitions named by one produce, fetch, subscribe or list-offsets request.
pub const PARTITIONS_PER_REQUEST_MAX: usize = 10_000;
/// Topics named by one metadata request.
pub const TOPICS_PER_REQUEST_MAX: usize = 10_000;
/// Topics named by one metadata or list-topics response.
pub const TOPICS_PER_RESPONSE_MAX: usize = 100_000;
/// Configuration entries of one topic or one request.
pub const CONFIG_ENTRIES_MAX: usize = 256;
/// Elements of an array that has no limit of its own above.
pub const ARRAY_ELEMENTS_MAX: usize = 10_000;
/// Requests in flight on one connection.
pub const REQUESTS_IN_FLIGHT_MAX: usize = 64;
/// Subscriptions open on one connection.
pub const SUBSCRIPTIONS_PER_CONNECTION_MAX: usize = 64;
/// The longest a fetch may wait, in milliseconds.
pub const FETCH_WAIT_MS_MAX: u32 = 60_000;

const _: () = assert!(FRAME_HEADER_BYTES + FRAME_BODY_BYTES_MAX + BATCH_BYTES_MAX <= FRAME_BYTES_MAX);
const _: () = assert!(BATCH_BYTES_MAX_DEFAULT <= BATCH_BYTES_MAX);
const _: () = assert!(FRAME_BYTES_MAX_BEFORE_HANDSHAKE < FRAME_BYTES_MAX);
const _: () = assert!(READ_IDLE_BYTES <= READ_AHEAD_BYTES_MAX);
const _: () = assert!(READ_IDLE_BYTES >= FRAME_HEADER_BYTES);
const _: () = assert!(STRING_BYTES_MAX < u16::MAX as usize);
const _: () = assert!(FRAME_BYTES_MAX <= i32::MAX as usize);
