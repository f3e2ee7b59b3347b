//! What strangers make a running broker reserve: a small constant, and a small multiple of the bytes that have arrived.
//! Every allocation of this test binary is counted, whatever thread asks for it, so everything is in one test.

mod harness;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use harness::{TestBroker, TestClient, flatten};
use streambus_protocol::api::session::HealthRequest;
use streambus_protocol::api::{ApiKey, encode_request};
use streambus_protocol::ids::CorrelationId;
use streambus_protocol::limits::{FRAME_BYTES_MAX, FRAME_HEADER_BYTES};

/// The system's allocator, and how much the process has reserved through it.
struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

fn reserved(bytes: usize) {
    let now = NOW.fetch_add(bytes, Ordering::Relaxed) + bytes;
    PEAK.fetch_max(now, Ordering::Relaxed);
}

fn released(bytes: usize) {
    NOW.fetch_sub(bytes, Ordering::Relaxed);
}

#[expect(unsafe_code, reason = "the only way to see what a broker reserves is to be the allocator")]
// SAFETY: every call goes to the system's allocator with the arguments it came with; the counters allocate nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        reserved(layout.size());
        // SAFETY: the caller's promises are passed on unchanged.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        reserved(layout.size());
        // SAFETY: the caller's promises are passed on unchanged.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        reserved(bytes);
        released(layout.size());
        // SAFETY: the caller's promises are passed on unchanged.
        unsafe { System.realloc(pointer, layout, bytes) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        released(layout.size());
        // SAFETY: the caller's promises are passed on unchanged.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What a connection and the broker's own life may take meanwhile, whatever is sent.
const CONSTANT: usize = 512 * 1024;
/// What arrives may take this many times its size: elements are wider in memory than on the wire.
const FACTOR: usize = 8;

/// Tells the second request from the first.
const SECOND: CorrelationId = CorrelationId::new(10);

/// The most that was reserved at once while `work` ran, beyond what was reserved before it.
async fn peak_of(work: impl Future<Output = ()>) -> usize {
    let before = NOW.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    work.await;
    PEAK.load(Ordering::Relaxed).saturating_sub(before)
}

/// A frame of `api` with this body and a right checksum.
fn forged(api: u8, body: &[u8]) -> Vec<u8> {
    forged_with_records(api, body, 0)
}

/// The same, with a length that promises so many record bytes behind the body.
fn forged_with_records(api: u8, body: &[u8], promised: usize) -> Vec<u8> {
    let mut frame = flatten(encode_request(&HealthRequest {}, CorrelationId::new(9), 0));
    frame.truncate(FRAME_HEADER_BYTES);
    frame.extend_from_slice(body);
    frame[8] = api;
    let length = u32::try_from(frame.len() - 4 + promised).expect("small");
    frame[..4].copy_from_slice(&length.to_le_bytes());
    frame[20..24].copy_from_slice(&u32::try_from(body.len()).expect("small").to_le_bytes());
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&frame[..4]), &frame[8..]);
    frame[4..8].copy_from_slice(&checksum.to_le_bytes());
    frame
}

/// Bodies in which any four bytes may be a count of what is not there, or of elements that are cheap to write.
fn hostile_bodies() -> Vec<Vec<u8>> {
    let mut bodies = vec![vec![0xff; 64], vec![0xff; 40_000]];
    for declared in [u32::MAX, 1_000_000, 9_999] {
        for at in (0..48).step_by(2) {
            let mut body = vec![0; 40_000];
            body[at..at + 4].copy_from_slice(&declared.to_le_bytes());
            bodies.push(body);
        }
    }
    bodies
}

#[tokio::test]
async fn no_bytes_of_a_stranger_reserve_much_more_than_they_are() {
    let broker = TestBroker::start().await;

    let seen = peak_of(async { drop(std::hint::black_box(vec![0_u8; 8 << 20])) }).await;
    assert!(seen >= 8 << 20, "the counter sees what is reserved: {seen}");

    // Whole frames that promise more than they hold; the broker answers, or closes.
    let bodies = hostile_bodies();
    // Some APIs have no answer: a second request behind tells when the first was dealt with.
    let health = flatten(encode_request(&HealthRequest {}, SECOND, 0));
    for api in ApiKey::ALL {
        for body in &bodies {
            let frame = forged(api.to_wire(), body);
            let mut client = broker.client().await;
            let peak = peak_of(async {
                client.send_bytes(&frame).await;
                client.send_bytes(&health).await;
                until_answered(&mut client).await;
            })
            .await;
            let most = FACTOR * frame.len() + CONSTANT;
            assert!(peak <= most, "{api:?}: {peak} bytes for {} with {:?}", frame.len(), &body[..48]);
        }
    }

    // A frame of the largest size of which only a part comes: room for four times that part, and the part itself while
    // it moves into larger room.
    for arrived in [1, 100_000, 1 << 20] {
        let bytes = vec![0x5a; arrived];
        let head = forged_with_records(ApiKey::Produce.to_wire(), &[0; 16], FRAME_BYTES_MAX - FRAME_HEADER_BYTES - 16);
        let mut client = broker.client().await;
        let peak = peak_of(async {
            client.send_bytes(&head).await;
            client.send_bytes(&bytes).await;
            until_charged(&broker, arrived).await;
        })
        .await;
        assert!(peak <= 5 * arrived + CONSTANT, "{peak} bytes for {arrived} of a large frame");
        drop(client);
        until_idle(&broker).await;
    }

    // A length that no frame may have.
    let mut client = broker.client().await;
    let peak = peak_of(async {
        client.send_bytes(&u32::MAX.to_le_bytes()).await;
        let _answer = client.receive().await;
    })
    .await;
    assert!(peak <= CONSTANT, "{peak} bytes for four gigabytes that are only declared");
    drop(client);

    let mut honest: TestClient = broker.client().await;
    assert!(honest.call(&HealthRequest {}).await.expect("health").ready);
    drop(honest);
    broker.stop().await.expect("an orderly stop");
}

/// Reads until the second request is answered, or the broker has closed the connection.
async fn until_answered(client: &mut TestClient) {
    while client.receive().await.is_some_and(|frame| frame.header.correlation != SECOND) {}
}

/// Waits until the broker has taken in `arrived` bytes of a request that is not whole.
async fn until_charged(broker: &TestBroker, arrived: usize) {
    harness::within(async {
        while broker.server.request_bytes_in_flight() < arrived {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

async fn until_idle(broker: &TestBroker) {
    harness::within(async {
        while broker.server.request_bytes_in_flight() > 0 || broker.server.connections() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}
