//! The listener over a real loopback socket, on a port of the system's choice: what a probe, a scraper, a browser and
//! a hostile peer get.

use std::time::Duration;

use streambus_storage::clock::SystemClock;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::config::address::HostPort;
use crate::lifecycle::{Component, Problem, State};

struct Listening {
    address: std::net::SocketAddr,
    state: Arc<HttpState>,
    lifecycle: Lifecycle,
    shutdown: CancellationToken,
    served: JoinHandle<()>,
}

async fn listen(config: HttpConfig) -> Listening {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let lifecycle = Lifecycle::new();
    let metrics = Arc::new(BrokerMetrics::new());
    metrics.attach_lifecycle(lifecycle.clone());
    let clock = Arc::new(SystemClock::new());
    let state = Arc::new(HttpState::new(config, lifecycle.clone(), metrics, clock, 0xabc));
    let shutdown = CancellationToken::new();
    let served = tokio::runtime::Handle::current().spawn(serve(listener.into(), Arc::clone(&state), shutdown.clone()));
    Listening { address, state, lifecycle, shutdown, served }
}

/// Sends `request` and reads until the peer closes.
async fn exchange(address: std::net::SocketAddr, request: &str) -> String {
    let mut socket = TcpStream::connect(address).await.expect("connects");
    socket.write_all(request.as_bytes()).await.expect("sends");
    let mut answer = Vec::new();
    // A peer that is cut may see a reset instead of an end.
    let _ended = socket.read_to_end(&mut answer).await;
    String::from_utf8(answer).expect("text")
}

async fn get(listening: &Listening, path: &str) -> (u16, String, serde_json::Value) {
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    split(&exchange(listening.address, &request).await)
}

fn split(answer: &str) -> (u16, String, serde_json::Value) {
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (status, head.to_lowercase(), serde_json::from_str(body).unwrap_or(serde_json::Value::Null))
}

#[tokio::test]
async fn probes_follow_the_lifecycle() {
    let broker = listen(HttpConfig::default()).await;
    let codes = async || {
        let mut codes = Vec::new();
        for path in ["/health", "/health/live", "/health/ready", "/health/startup"] {
            codes.push(get(&broker, path).await.0);
        }
        codes
    };
    assert_eq!(codes().await, [200, 200, 503, 503], "starting");
    broker.lifecycle.set(State::Recovering).expect("legal");
    assert_eq!(codes().await, [200, 200, 503, 503], "recovering: alive, so nobody restarts it in the middle");
    broker.lifecycle.set(State::Ready).expect("legal");
    assert_eq!(codes().await, [200, 200, 200, 200], "ready");
    let problem = |blocks_ready| Problem { component: Component::Storage, message: "read-only".into(), blocks_ready };
    broker.lifecycle.report(problem(false));
    assert_eq!(codes().await, [200, 200, 200, 200], "a problem that does not block");
    broker.lifecycle.report(problem(true));
    assert_eq!(codes().await, [200, 200, 503, 200], "a problem that blocks");
    broker.lifecycle.clear(Component::Storage);
    broker.lifecycle.set(State::Draining).expect("legal");
    assert_eq!(codes().await, [200, 200, 503, 200], "draining");
    broker.lifecycle.set(State::Failed("no disk".into())).expect("legal");
    assert_eq!(codes().await, [200, 200, 503, 503], "failed");
    for (alias, path) in [("/healthz", "/health"), ("/livez", "/health/live"), ("/readyz", "/health/ready")] {
        assert_eq!(get(&broker, alias).await.2, get(&broker, path).await.2, "{alias}");
    }
}

#[tokio::test]
async fn health_names_state_problems_and_version() {
    let broker = listen(HttpConfig::default()).await;
    broker.lifecycle.report(Problem { component: Component::Storage, message: "full".into(), blocks_ready: false });
    let (_, head, body) = get(&broker, "/health").await;
    assert!(head.contains("content-type: application/json") && head.contains("cache-control: no-store"), "{head}");
    assert_eq!(
        body,
        serde_json::json!({"state": "starting", "ready": false, "version": env!("CARGO_PKG_VERSION"),
            "problems": [{"component": "storage", "message": "full", "blocks_ready": false}]})
    );
    let (_, _, ready) = get(&broker, "/health/ready").await;
    assert_eq!(ready, serde_json::json!({"ok": false, "reasons": ["the broker is starting"]}));
    broker.lifecycle.set(State::Failed("no disk".into())).expect("legal");
    assert_eq!(get(&broker, "/health").await.2["reason"], "no disk");
}

#[tokio::test]
async fn metrics_count_requests_by_route_and_never_by_path() {
    let broker = listen(HttpConfig::default()).await;
    for path in ["/livez", "/no/such/path?x=1", "/api/v1/topics/secret-name"] {
        get(&broker, path).await;
    }
    let request = "GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let text = exchange(broker.address, request).await;
    assert!(text.contains("content-type: text/plain; version=0.0.4"), "{text}");
    for series in [
        "streambus_http_requests_total{route=\"probe\",status=\"2xx\"} 1",
        "streambus_http_requests_total{route=\"unknown\",status=\"4xx\"} 1",
        "streambus_http_requests_total{route=\"topic\",status=\"5xx\"} 1",
    ] {
        assert!(text.contains(series), "{series} is missing");
    }
    assert!(!text.contains("secret-name"));
}

#[tokio::test]
async fn refusals_are_problem_documents_with_the_request_id() {
    let broker = listen(HttpConfig::default()).await;
    let (status, head, body) = get(&broker, "/api/v1/topics").await;
    assert_eq!(status, 503);
    assert!(head.contains("content-type: application/problem+json") && head.contains("retry-after: 1"), "{head}");
    assert_eq!(
        (&body["type"], &body["title"], &body["status"], &body["code"], &body["retriable"], &body["applied"]),
        (
            &"/problems/not-ready".into(),
            &"Not ready".into(),
            &503.into(),
            &"NOT_READY".into(),
            &true.into(),
            &"no".into()
        )
    );
    assert_eq!(body["request_id"], "0000000000000abc-0");
    assert!(head.contains("x-request-id: 0000000000000abc-0"), "{head}");

    let request = "PUT /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-request-id: mine-1\r\n\r\n";
    let (status, head, body) = split(&exchange(broker.address, request).await);
    assert_eq!((status, &body["request_id"]), (405, &"mine-1".into()));
    assert!(head.contains("allow: get, head"), "{head}");
    // An id that could forge a log line or a header is replaced.
    let request = "GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-request-id: a b\r\n\r\n";
    assert!(split(&exchange(broker.address, request).await).1.contains("x-request-id: 0000000000000abc-"));
}

#[tokio::test]
async fn the_api_does_not_answer_to_a_foreign_name_on_loopback() {
    for (config, host, expected) in [
        (HttpConfig::default(), "attacker.example", 421),
        (HttpConfig::default(), "localhost:8080", 503),
        (HttpConfig::default(), "127.0.0.1:8080", 503),
        (HttpConfig::default(), "[::1]:8080", 503),
        (
            HttpConfig { listen: HostPort { host: "0.0.0.0".into(), port: 0 }, ..HttpConfig::default() },
            "broker.example",
            503,
        ),
    ] {
        let broker = listen(config).await;
        let request = format!("GET /api/v1/topics HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        assert_eq!(split(&exchange(broker.address, &request).await).0, expected, "{host}");
    }
}

#[tokio::test]
async fn build_says_what_runs() {
    let broker = listen(HttpConfig::default()).await;
    assert_eq!(get(&broker, "/build").await.2["version"], env!("CARGO_PKG_VERSION"));
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let broker = listen(HttpConfig::default()).await;
    let request = format!("GET /livez HTTP/1.1\r\nhost: x\r\nx-long: {}\r\n\r\n", "a".repeat(64 * 1024));
    let answer = exchange(broker.address, &request).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
}

#[tokio::test]
async fn a_peer_that_sends_no_request_is_cut() {
    let config = HttpConfig { header_timeout: Duration::from_millis(50), ..HttpConfig::default() };
    let broker = listen(config).await;
    let cut = exchange(broker.address, "GET /livez HTTP/1.1\r\nhost: x\r\n");
    let answer = tokio::time::timeout(Duration::from_secs(20), cut).await.expect("the broker closes the connection");
    assert!(!answer.contains("200 OK"), "{answer}");
}

#[tokio::test]
async fn connections_have_a_limit_and_places_come_back() {
    let config = HttpConfig { connections: 1, ..HttpConfig::default() };
    let broker = listen(config).await;
    let mut first = TcpStream::connect(broker.address).await.expect("connects");
    first.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("sends");
    let mut byte = [0; 1];
    first.read_exact(&mut byte).await.expect("the first connection is served");
    let request = "GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    assert_eq!(exchange(broker.address, request).await, "", "the second is closed without an answer");
    drop(first);
    // The place is free once the broker has seen the end: ask until it has.
    let served = async {
        while !exchange(broker.address, request).await.starts_with("HTTP/1.1 200") {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), served).await.expect("the place comes back");
}

#[tokio::test]
async fn a_stop_closes_idle_connections_and_takes_no_new_ones() {
    let broker = listen(HttpConfig::default()).await;
    let mut idle = TcpStream::connect(broker.address).await.expect("connects");
    idle.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("sends");
    let mut byte = [0; 1];
    idle.read_exact(&mut byte).await.expect("served");
    broker.shutdown.cancel();
    let stopped = tokio::time::timeout(Duration::from_secs(20), broker.served).await;
    stopped.expect("serve returns").expect("without a panic");
    let mut rest = Vec::new();
    idle.read_to_end(&mut rest).await.expect("closed in order");
    assert!(TcpStream::connect(broker.address).await.is_err());
    drop(broker.state);
}
