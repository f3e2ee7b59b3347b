//! What is refused: a foreign disk, and a peer's request where clients come in.

use crate::founders::Founders;
use crate::harness::{PATIENCE, TestBroker, TestClient, within};
use streambus_protocol::api::{ApiKey, Listener};
use streambus_protocol::error_code::ErrorCode;

// Catches a disk of one broker that serves another, and a cluster that is taken for one's own.
#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_disk_is_refused_with_its_reason() {
    let founders = Founders::new(3);
    let mut servers = founders.start_all().await;
    let second = servers.remove(&2).expect("started");
    second.drain_and_stop(PATIENCE).await.expect("an orderly stop");
    let refused = within(founders.start_on(4, 2)).await.expect_err("the disk of broker 2");
    let text = refused.to_string();
    assert!(text.contains("broker 4") && text.contains("broker 2"), "{text}");
}

// Catches a vote, or a follower's fetch, that comes in where clients come in.
#[tokio::test]
async fn every_peer_api_is_refused_on_the_client_listener() {
    let broker = TestBroker::start().await;
    for api in ApiKey::ALL.iter().filter(|api| api.listener() == Listener::Cluster) {
        for says_hello in [false, true] {
            let mut client = TestClient::connect_preface(broker.address()).await;
            if says_hello {
                client.handshake().await.expect("welcome");
            }
            client.send_bytes(&bare_request(*api)).await;
            let frame = client.receive().await.expect("an answer");
            let error = streambus_protocol::api::decode_error(&frame).expect("an error");
            assert_eq!(error.code, ErrorCode::ClusterListenerOnly, "{api:?}");
            assert!(client.receive().await.is_none(), "{api:?} leaves the connection open");
        }
    }
    broker.stop().await.expect("an orderly stop");
}

/// A request of `api` without a body; what is refused for its number is refused before its body is looked at.
fn bare_request(api: ApiKey) -> Vec<u8> {
    let mut frame = vec![0; 24];
    frame[..4].copy_from_slice(&20_u32.to_le_bytes());
    frame[8] = api.to_wire();
    frame[9] = 1;
    frame[12] = 77;
    let crc = crc32c::crc32c_append(crc32c::crc32c(&frame[..4]), &frame[8..]);
    frame[4..8].copy_from_slice(&crc.to_le_bytes());
    frame
}
