//! Bytes that no honest client sends: the broker answers what can be answered, closes the rest, and serves on.

use std::time::Duration;

use crate::harness::{TestBroker, TestClient, batch, code, flatten, produce_request};
use streambus_protocol::api::metadata::MetadataRequest;
use streambus_protocol::api::produce::Acks;
use streambus_protocol::api::session::HealthRequest;
use streambus_protocol::api::{decode_error, encode_request};
use streambus_protocol::batch::UnverifiedBatch;
use streambus_protocol::error_code::ErrorCode;
use streambus_protocol::ids::CorrelationId;
use streambus_protocol::preface::{BrokerPreface, ClientPreface, PREFACE_BYTES};
use tokio::io::AsyncReadExt;

async fn still_serves(broker: &TestBroker) {
    let mut client = broker.client().await;
    assert!(client.call(&HealthRequest {}).await.expect("health").ready);
}

#[tokio::test]
async fn garbage_and_other_protocols_are_closed_without_an_answer() {
    let broker = TestBroker::start().await;
    // HTTP, a Kafka ApiVersions request's beginning, a TLS hello, zeros.
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0, 0, 0, 35, 0, 18, 0, 3], &[0x16, 3, 1, 2, 0], &[0; 64]] {
        let mut client = TestClient::connect_raw(broker.address()).await;
        client.send_bytes(bytes).await;
        client.expect_end().await;
    }
    still_serves(&broker).await;
    broker.stop().await.expect("an orderly stop");
}

#[tokio::test]
async fn a_client_without_a_common_version_is_told_so() {
    let broker = TestBroker::start().await;
    let mut client = TestClient::connect_raw(broker.address()).await;
    let offer = ClientPreface { version_min: 7, version_max: 9 };
    client.send_bytes(&offer.encode()).await;
    let mut answer = [0; PREFACE_BYTES];
    crate::harness::within(client.stream.read_exact(&mut answer)).await.expect("an answer");
    assert_eq!(BrokerPreface::decode(answer, offer).expect("a preface").version, None);
    client.expect_end().await;
    broker.stop().await.expect("an orderly stop");
}

// Catches a length that is believed: 4 GiB would be reserved before a byte of it has come.
#[tokio::test]
async fn a_frame_of_four_gigabytes_is_refused_by_its_length() {
    let broker = TestBroker::start().await;
    let mut client = broker.client().await;
    client.send_bytes(&u32::MAX.to_le_bytes()).await;
    let frame = client.receive().await.expect("an answer");
    assert_eq!(decode_error(&frame).expect("an error").code, ErrorCode::RequestTooLarge);
    client.expect_end().await;

    // Before the handshake the limit is far lower.
    let mut client = TestClient::connect_preface(broker.address()).await;
    client.send_bytes(&(1_u32 << 20).to_le_bytes()).await;
    let frame = client.receive().await.expect("an answer");
    assert_eq!(decode_error(&frame).expect("an error").code, ErrorCode::RequestTooLarge);
    client.expect_end().await;
    still_serves(&broker).await;
    broker.stop().await.expect("an orderly stop");
}

#[tokio::test]
async fn the_first_request_must_be_a_handshake() {
    let broker = TestBroker::start().await;
    let mut client = TestClient::connect_preface(broker.address()).await;
    assert_eq!(code(client.call(&HealthRequest {}).await), ErrorCode::HandshakeRequired);
    client.expect_end().await;
    broker.stop().await.expect("an orderly stop");
}

#[tokio::test]
async fn a_client_of_another_cluster_is_refused() {
    use streambus_protocol::api::session::HandshakeRequest;
    use streambus_protocol::ids::ClusterId;
    let broker = TestBroker::start().await;
    let mut client = TestClient::connect_preface(broker.address()).await;
    let request = HandshakeRequest {
        client_id: String::new(),
        software_name: String::new(),
        software_version: String::new(),
        cluster_id: Some(ClusterId::from_bytes([7; 16])),
    };
    assert_eq!(code(client.call(&request).await), ErrorCode::WrongCluster);
    client.expect_end().await;
    broker.stop().await.expect("an orderly stop");
}

#[tokio::test]
async fn an_unknown_api_or_version_is_refused_and_the_connection_lives() {
    let broker = TestBroker::start().await;
    let mut client = broker.client().await;
    for (place, value) in [(8, 200_u8), (9, 99)] {
        let mut bytes = flatten(encode_request(&HealthRequest {}, CorrelationId::new(77), 0));
        bytes[place] = value;
        reseal(&mut bytes);
        client.send_bytes(&bytes).await;
        let frame = client.receive().await.expect("an answer");
        assert_eq!(frame.header.correlation, CorrelationId::new(77));
        assert_eq!(decode_error(&frame).expect("an error").code, ErrorCode::UnsupportedApi);
    }
    assert!(client.call(&HealthRequest {}).await.expect("health").ready, "the same connection serves on");
    broker.stop().await.expect("an orderly stop");
}

#[tokio::test]
async fn a_frame_with_a_wrong_checksum_is_answered_and_closed() {
    let broker = TestBroker::start().await;
    let mut client = broker.client().await;
    let mut bytes = flatten(encode_request(&MetadataRequest { topics: None }, CorrelationId::new(5), 0));
    bytes[4] ^= 1;
    client.send_bytes(&bytes).await;
    let frame = client.receive().await.expect("an answer");
    assert_eq!(decode_error(&frame).expect("an error").code, ErrorCode::MalformedRequest);
    client.expect_end().await;
    broker.stop().await.expect("an orderly stop");
}

// Catches a body that is trusted because its checksum is right.
#[tokio::test]
async fn a_message_that_does_not_decode_is_answered_and_the_connection_lives() {
    let broker = TestBroker::start().await;
    let mut client = broker.client().await;
    let mut bytes = flatten(encode_request(&HealthRequest {}, CorrelationId::new(5), 0));
    // One byte of body that no field claims.
    bytes.push(9);
    bytes[20] = 1;
    let length = u32::try_from(bytes.len() - 4).expect("small");
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    reseal(&mut bytes);
    client.send_bytes(&bytes).await;
    let frame = client.receive().await.expect("an answer");
    assert_eq!(decode_error(&frame).expect("an error").code, ErrorCode::MalformedRequest);
    assert!(client.call(&HealthRequest {}).await.expect("health").ready);
    broker.stop().await.expect("an orderly stop");
}

#[tokio::test]
async fn a_batch_with_a_wrong_checksum_is_refused_and_the_connection_lives() {
    let broker = TestBroker::start().await;
    let mut client = broker.client().await;
    let topic = client.create_topic("t", 1).await;
    let mut bytes = batch(&["hello"], None).as_bytes().to_vec();
    *bytes.last_mut().expect("bytes") ^= 1;
    let broken = UnverifiedBatch::new(bytes.as_slice().into());
    assert_eq!(code(client.produce_batch(topic, 0, broken).await), ErrorCode::CorruptBatch);
    assert_eq!(client.produce(topic, 0, &["hello"]).await.expect("written").base_offset, crate::harness::at(0));
    broker.stop().await.expect("an orderly stop");
}

// Catches a decoder that needs a frame in one piece.
#[tokio::test]
async fn a_request_may_come_one_byte_at_a_time() {
    let broker = TestBroker::start().await;
    let mut client = broker.client().await;
    let topic = client.create_topic("slow", 1).await;
    let request = produce_request(topic, 0, Acks::All, batch(&["drip"], None));
    for byte in flatten(encode_request(&request, CorrelationId::new(9), 0)) {
        client.send_bytes(&[byte]).await;
    }
    let response: streambus_protocol::api::produce::ProduceResponse =
        client.response(CorrelationId::new(9)).await.expect("an answer");
    assert!(response.partitions[0].result.is_ok());
    broker.stop().await.expect("an orderly stop");
}

#[tokio::test]
async fn a_silent_client_is_closed_at_the_handshake_deadline() {
    let broker = TestBroker::start_with(|config| config.limits.handshake_timeout = Duration::from_millis(100)).await;
    let mut silent = TestClient::connect_raw(broker.address()).await;
    silent.expect_end().await;
    let mut half = TestClient::connect_preface(broker.address()).await;
    half.expect_end().await;
    broker.stop().await.expect("an orderly stop");
}

// Catches a minimum rate that each byte renews: such a client would hold its frame's budget for ever.
#[tokio::test]
async fn a_frame_that_trickles_in_is_cut() {
    let broker = TestBroker::start_with(|config| config.limits.slow_client_grace = Duration::from_millis(500)).await;
    let mut client = broker.client().await;
    client.send_bytes(&(1_u32 << 20).to_le_bytes()).await;
    assert!(client.trickle().await > 0, "it was cut before it was slow");
    still_serves(&broker).await;
    broker.stop().await.expect("an orderly stop");
}

// Catches a broker that waits for ever for the rest of a frame.
#[tokio::test]
async fn a_frame_that_stops_arriving_is_cut() {
    let broker = TestBroker::start_with(|config| config.limits.slow_client_grace = Duration::from_millis(100)).await;
    let mut client = broker.client().await;
    // A frame of 1 MiB is announced and its first bytes are all that come.
    client.send_bytes(&(1_u32 << 20).to_le_bytes()).await;
    client.send_bytes(&[0; 100]).await;
    client.expect_end().await;
    still_serves(&broker).await;
    broker.stop().await.expect("an orderly stop");
}

#[tokio::test]
async fn an_idle_client_is_closed_but_not_one_that_waits() {
    let broker = TestBroker::start_with(|config| config.limits.idle_timeout = Duration::from_secs(1)).await;
    let mut idle = broker.client().await;
    let mut waiting = broker.client().await;
    let topic = waiting.create_topic("t", 1).await;
    let parked = waiting.send(&crate::harness::fetch_request(topic, 0, 0, 3_000)).await;
    idle.expect_end().await;
    let response: streambus_protocol::api::fetch::FetchResponse = waiting.response(parked).await.expect("an answer");
    assert!(crate::harness::values(&response.partitions[0]).is_empty());
    broker.stop().await.expect("an orderly stop");
}

/// Computes a frame's checksum anew: CRC-32C over the length and everything after the checksum but record bytes.
fn reseal(frame: &mut [u8]) {
    let body = u32::from_le_bytes(frame[20..24].try_into().expect("four bytes"));
    let end = 24 + body as usize;
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&frame[..4]), &frame[8..end]);
    frame[4..8].copy_from_slice(&checksum.to_le_bytes());
}
