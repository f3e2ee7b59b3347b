//! The REST API against a running broker: what a shell script with an HTTP client gets.

mod harness;

use std::net::SocketAddr;
use std::time::Duration;

use harness::{PATIENCE, TestBroker};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

const JSON: &str = "application/json";
const LINES: &str = "application/x-ndjson";

/// A broker's HTTP side.
struct Api {
    broker: TestBroker,
    address: SocketAddr,
}

struct Answer {
    status: u16,
    head: String,
    body: Value,
    text: String,
}

impl Api {
    async fn start() -> Self {
        let broker = TestBroker::start_with(|config| config.http.body_bytes_max = 64 << 10).await;
        let address = broker.server.http_address();
        Self { broker, address }
    }

    async fn send(&self, method: &str, path: &str, content_type: &str, body: &str) -> Answer {
        send(self.address, method, path, content_type, body).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, "", "").await
    }

    async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send("POST", path, JSON, &body.to_string()).await
    }

    async fn create(&self, name: &str, partitions: u32) {
        let answer = self.post("/api/v1/topics", &json!({"name": name, "partitions": partitions})).await;
        assert_eq!(answer.status, 201, "{}", answer.text);
    }
}

async fn send(address: SocketAddr, method: &str, path: &str, content_type: &str, body: &str) -> Answer {
    let exchange = async {
        let mut socket = TcpStream::connect(address).await.expect("connects");
        let content_type =
            if content_type.is_empty() { String::new() } else { format!("content-type: {content_type}\r\n") };
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{content_type}content-length: {length}\r\n\r\n{body}"
        );
        // A refusal may come before the whole body is sent.
        let _refused = socket.write_all(request.as_bytes()).await;
        let mut answer = Vec::new();
        let _reset = socket.read_to_end(&mut answer).await;
        String::from_utf8(answer).expect("text")
    };
    let answer = tokio::time::timeout(PATIENCE, exchange).await.expect("an answer in time");
    let (head, text) = answer.split_once("\r\n\r\n").expect("a head and a body");
    Answer {
        status: head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status"),
        head: head.to_lowercase(),
        body: serde_json::from_str(text).unwrap_or(Value::Null),
        text: text.to_owned(),
    }
}

fn values(page: &Value) -> Vec<&str> {
    let records = page["records"].as_array().map(Vec::as_slice).unwrap_or_default();
    records.iter().map(|record| record["value"].as_str().expect("text")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_from_its_creation_to_its_deletion() {
    let api = Api::start().await;
    let body = json!({"name": "orders", "partitions": 3, "config": {"retention.ms": 86_400_000}});
    let created = api.post("/api/v1/topics", &body).await;
    assert_eq!((created.status, &created.body["partitions"]), (201, &json!(3)), "{}", created.text);
    assert!(created.head.contains("location: /api/v1/topics/orders"), "{}", created.head);
    let again = api.post("/api/v1/topics", &body).await;
    assert_eq!((again.status, &again.body["code"]), (409, &json!("TOPIC_EXISTS")), "{}", again.text);

    let listed = api.get("/api/v1/topics?search=ORD").await;
    assert_eq!((&listed.body["items"][0]["name"], &listed.body["total"]), (&json!("orders"), &json!(1)));

    let change = json!({"config": {"retention.ms": null, "durability": "async"}, "partitions": 5});
    let changed = api.send("PATCH", "/api/v1/topics/orders", JSON, &change.to_string()).await;
    assert_eq!(changed.status, 200, "{}", changed.text);
    assert_eq!(changed.body, json!({"name": "orders", "partitions": 5, "config": {"durability": "async"}}));

    let described = api.get("/api/v1/topics/orders").await;
    assert_eq!((described.status, described.body["partitions"].as_array().map(Vec::len)), (200, Some(5)));
    assert_eq!(described.body["partitions"][4]["high_watermark"], 0);

    assert_eq!(api.send("DELETE", "/api/v1/topics/orders", "", "").await.status, 200);
    assert_eq!(api.get("/api/v1/topics/orders").await.status, 404);
    api.broker.stop().await.expect("an orderly stop");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mistyped_topic_is_answered_with_the_one_that_was_meant() {
    let api = Api::start().await;
    api.create("orders", 1).await;
    for (method, path, content_type, body) in [
        ("GET", "/api/v1/topics/ordres", "", ""),
        ("GET", "/api/v1/topics/ordres/records", "", ""),
        ("POST", "/api/v1/topics/ordres/records", JSON, "{\"value\":1}"),
        ("DELETE", "/api/v1/topics/ordres", "", ""),
    ] {
        let answer = api.send(method, path, content_type, body).await;
        assert_eq!((answer.status, &answer.body["code"]), (404, &json!("UNKNOWN_TOPIC")), "{method} {path}");
        let detail = answer.body["detail"].as_str().unwrap_or_default();
        assert!(detail.contains("orders"), "{method} {path}: {detail}");
    }
}

/// Catches every way in which a value could change between a producer and a consumer.
#[tokio::test(flavor = "multi_thread")]
async fn records_come_back_as_they_were_sent() {
    let api = Api::start().await;
    api.create("t", 1).await;
    let sent = concat!(
        r#"{"key":"k","value":"text \u00e4","headers":[{"key":"h","value":"1"},{"key":"h","value_base64":"/w=="}],"timestamp":1000}"#,
        "\n",
        r#"{"value":{"big":12345678901234567890123,"z":1,"a":1.10}}"#,
        "\n",
        r#"{"key_base64":"/wA=","value_base64":"/v8="}"#,
        "\n",
        r#"{"key":"gone","value":null}"#,
    );
    let produced = api.send("POST", "/api/v1/topics/t/records", LINES, sent).await;
    assert_eq!((produced.status, &produced.body["produced"]), (200, &json!(4)), "{}", produced.text);
    let first = &produced.body["records"][0];
    assert_eq!(
        (&first["offset"], &first["timestamp"], &first["durable"]),
        (&json!(0), &json!(1000), &json!(1)),
        "an acknowledged record is on disk"
    );

    let page = api.get("/api/v1/topics/t/records").await;
    assert_eq!(page.status, 200, "{}", page.text);
    let records = &page.body["records"];
    let epoch = &records[3]["leader_epoch"];
    assert!(epoch.is_u64(), "{}", page.text);
    assert_eq!(
        records[0],
        json!({"partition": 0, "offset": 0, "leader_epoch": epoch, "timestamp": 1000, "key": "k", "value": "text ä",
            "headers": [{"key": "h", "value": "1"}, {"key": "h", "value_base64": "/w=="}]})
    );
    assert_eq!(records[1]["value"], r#"{"big":12345678901234567890123,"z":1,"a":1.10}"#);
    assert_eq!((&records[2]["key_base64"], &records[2]["value_base64"]), (&json!("/wA="), &json!("/v8=")));
    assert_eq!((&records[3]["key"], &records[3]["value"]), (&json!("gone"), &Value::Null));
    assert_eq!(page.body["next"], format!("0:4:{epoch}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn mixed_outcomes_are_told_record_by_record() {
    let api = Api::start().await;
    api.create("t", 2).await;
    let body = json!([{"value": "a", "partition": 1}, {"value": "b", "partition": 7}, {"nonsense": 1}, {"value": "c", "partition": 1}]);
    let answer = api.post("/api/v1/topics/t/records", &body).await;
    assert_eq!((answer.status, &answer.body["produced"], &answer.body["failed"]), (207, &json!(2), &json!(2)));
    let records = &answer.body["records"];
    assert_eq!((&records[0]["offset"], &records[3]["offset"]), (&json!(0), &json!(1)));
    assert_eq!(records[1]["error"]["code"], "UNKNOWN_PARTITION");
    assert_eq!(records[2]["error"]["code"], "INVALID_REQUEST");

    let none = api.post("/api/v1/topics/t/records", &json!([{"value": "b", "partition": 7}])).await;
    assert_eq!((none.status, &none.body["errors"][0]["pointer"]), (404, &json!("/0")), "{}", none.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_cover_a_topic_of_several_partitions_once() {
    let api = Api::start().await;
    api.create("t", 3).await;
    let body: Vec<Value> =
        (0..30).map(|i| json!({"value": i.to_string(), "partition": i % 3, "timestamp": i})).collect();
    assert_eq!(api.post("/api/v1/topics/t/records", &json!(body)).await.status, 200);
    let mut seen: Vec<String> = Vec::new();
    let mut path = "/api/v1/topics/t/records?limit=7".to_owned();
    loop {
        let page = api.get(&path).await;
        assert_eq!(page.status, 200, "{}", page.text);
        let page_values = values(&page.body);
        if page_values.is_empty() {
            break;
        }
        seen.extend(page_values.into_iter().map(str::to_owned));
        path = format!("/api/v1/topics/t/records?limit=7&cursor={}", page.body["next"].as_str().expect("a cursor"));
    }
    let expected: Vec<String> = (0..30).map(|i| i.to_string()).collect();
    assert_eq!(seen, expected, "in the order of time, without gap or repeat");
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_starts_where_it_is_asked_to() {
    let api = Api::start().await;
    api.create("t", 1).await;
    for i in 0..5 {
        let body = json!({"value": i.to_string(), "timestamp": 1000 * (i + 1)});
        assert_eq!(api.post("/api/v1/topics/t/records", &body).await.status, 200);
    }
    for (from, expected) in [
        ("earliest", vec!["0", "1", "2", "3", "4"]),
        ("offset:3", vec!["3", "4"]),
        ("tail:2", vec!["3", "4"]),
        ("tail:99", vec!["0", "1", "2", "3", "4"]),
        ("time:2500", vec!["2", "3", "4"]),
        ("time:1970-01-01T00:00:04Z", vec!["3", "4"]),
        ("latest", vec![]),
    ] {
        let page = api.get(&format!("/api/v1/topics/t/records?partition=0&from={from}")).await;
        assert_eq!((page.status, values(&page.body)), (200, expected), "{from}: {}", page.text);
    }
    let beyond = api.get("/api/v1/topics/t/records?partition=0&from=offset:99").await;
    assert_eq!((beyond.status, &beyond.body["code"]), (416, &json!("OFFSET_OUT_OF_RANGE")), "{}", beyond.text);
}

// Catches a reader over HTTP that goes on in a log which has other records where it has read, and is told nothing; one that is
// sent to a place where they differ already; and one that is refused in the log that it has always read.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_says_under_which_epoch_it_has_read_and_hears_when_the_log_has_something_else_there() {
    let mut api = Api::start().await;
    api.create("t", 1).await;
    let epoch_of = |answer: &Answer| answer.body["records"][0]["leader_epoch"].as_u64().expect("an epoch");
    for value in ["a", "b", "c"] {
        assert_eq!(api.post("/api/v1/topics/t/records", &json!({"value": value})).await.status, 200);
    }
    let first = api.get("/api/v1/topics/t/records?limit=2").await;
    let earlier = epoch_of(&first);
    assert_eq!(first.body["next"], format!("0:2:{earlier}"), "{}", first.text);
    assert_eq!(first.body["partitions"][0]["leader_epoch"], earlier, "{}", first.text);

    // Another leadership, which begins at offset 3.
    let broker = api.broker.restart().await;
    api = Api { address: broker.server.http_address(), broker };
    for value in ["d", "e"] {
        assert_eq!(api.post("/api/v1/topics/t/records", &json!({"value": value})).await.status, 200);
    }
    let rest = api.get(&format!("/api/v1/topics/t/records?cursor=0:2:{earlier}")).await;
    assert_eq!((rest.status, values(&rest.body)), (200, vec!["c", "d", "e"]), "{}", rest.text);
    let later = rest.body["records"][2]["leader_epoch"].as_u64().expect("an epoch");
    assert!(later > earlier, "{}", rest.text);
    assert_eq!(rest.body["next"], format!("0:5:{later}"), "{}", rest.text);

    // Who had read offset 3 as the earlier leader wrote it has read something else than what is there.
    for place in [format!("cursor=0:4:{earlier}"), format!("partition=0&from=offset:4&epoch={earlier}")] {
        let other = api.get(&format!("/api/v1/topics/t/records?{place}")).await;
        assert_eq!((other.status, &other.body["code"]), (416, &json!("OFFSET_OUT_OF_RANGE")), "{}", other.text);
        let detail = other.body["detail"].as_str().expect("a detail");
        assert!(detail.contains("not in this log any more") && detail.contains("offset 3 at most"), "{detail}");
    }
    let beyond = api.get(&format!("/api/v1/topics/t/records?cursor=0:99:{earlier}")).await;
    let detail = beyond.body["detail"].as_str().expect("a detail");
    assert!(beyond.status == 416 && detail.contains("offset 3 at most"), "it has become shorter as well: {detail}");
    let on = api.get(&format!("/api/v1/topics/t/records?partition=0&from=offset:3&epoch={earlier}")).await;
    assert_eq!((on.status, values(&on.body)), (200, vec!["d", "e"]), "{}", on.text);
    let unheard = api.get(&format!("/api/v1/topics/t/records?cursor=0:4:{}", later + 1)).await;
    assert_eq!((unheard.status, &unheard.body["code"]), (421, &json!("UNKNOWN_LEADER_EPOCH")), "{}", unheard.text);
    for wrong in ["from=earliest&epoch=0", "epoch=0", "cursor=0:4&epoch=0", "partition=0&from=offset:4&epoch=x"] {
        assert_eq!(api.get(&format!("/api/v1/topics/t/records?{wrong}")).await.status, 400, "{wrong}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_reader_gets_what_is_appended_meanwhile() {
    let api = Api::start().await;
    api.create("t", 1).await;
    let (page, produced) = tokio::join!(
        api.get("/api/v1/topics/t/records?cursor=0:0&wait_ms=15000"),
        api.send("POST", "/api/v1/topics/t/records", JSON, "{\"value\":\"new\"}"),
    );
    assert_eq!(produced.status, 200, "{}", produced.text);
    assert_eq!(values(&page.body), ["new"], "{}", page.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_cannot_be_meant_are_refused() {
    let api = Api::start().await;
    api.create("t", 2).await;
    let large = format!("{{\"value\":\"{}\"}}", "x".repeat(70 << 10));
    for (method, path, content_type, body, status) in [
        ("POST", "/api/v1/topics/t/records", "text/plain", "{\"value\":1}", 415),
        ("POST", "/api/v1/topics/t/records", "", "{\"value\":1}", 415),
        ("POST", "/api/v1/topics/t/records", JSON, large.as_str(), 413),
        ("POST", "/api/v1/topics/t/records", JSON, "{\"value\":", 400),
        ("POST", "/api/v1/topics/t/records?acks=none", JSON, "{\"value\":1}", 400),
        ("POST", "/api/v1/topics", JSON, "{\"name\":\"a b\"}", 400),
        ("POST", "/api/v1/topics", JSON, "{\"name\":\"u\",\"config\":{\"retention.sm\":1}}", 400),
        ("POST", "/api/v1/topics", LINES, "{\"name\":\"u\"}", 400),
        ("PATCH", "/api/v1/topics/t", JSON, "{}", 400),
        ("PATCH", "/api/v1/topics/t", JSON, "{\"partitions\":1}", 400),
        ("PUT", "/api/v1/topics/t", JSON, "{}", 405),
        ("GET", "/api/v1/topics?limit=0", "", "", 400),
        ("GET", "/api/v1/topics/t/records?from=offset:5", "", "", 400),
        ("GET", "/api/v1/topics/t/records?partition=9", "", "", 404),
        ("GET", "/api/v1/topics/t/records?cursor=x", "", "", 400),
        ("GET", "/api/v1/topics/t/records?form=earliest", "", "", 400),
        ("GET", "/api/v1/brokers/77", "", "", 404),
        ("GET", "/api/v2/topics", "", "", 404),
    ] {
        let answer = api.send(method, path, content_type, body).await;
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.text);
        assert_eq!(answer.body["status"], status, "{method} {path}: {}", answer.text);
        assert!(answer.head.contains("content-type: application/problem+json"), "{}", answer.head);
        assert!(answer.body["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{}", answer.text);
    }
    assert_eq!(api.get("/api/v1/topics/t/records?from=tail:9").await.body["records"], json!([]), "nothing got in");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cluster_and_the_scrape_show_the_broker() {
    let api = Api::start().await;
    api.create("t", 2).await;
    let cluster = api.get("/api/v1/cluster").await;
    assert_eq!(
        (&cluster.body["brokers"][0]["id"], &cluster.body["partitions"]),
        (&json!(1), &json!(2)),
        "{}",
        cluster.text
    );
    let health = api.get("/api/v1/cluster/health").await;
    assert_eq!((&health.body["healthy"], &health.body["problems"]), (&json!(true), &json!([])), "{}", health.text);
    assert_eq!(api.get("/api/v1/brokers/1").await.body["state"], "ready");
    assert_eq!(api.get("/health/ready").await.status, 200);

    assert_eq!(api.post("/api/v1/topics/t/records", &json!({"value": "x"})).await.status, 200);
    let scrape = api.get("/metrics").await;
    for series in [
        "streambus_topics 1",
        "streambus_partitions_led 2",
        "streambus_ready 1",
        "streambus_produced_records_total 1",
        "streambus_http_requests_total{route=\"produce\",status=\"2xx\"} 1",
    ] {
        assert!(scrape.text.lines().any(|line| line == series), "{series} is missing:\n{}", scrape.text);
    }
    assert!(scrape.text.contains("streambus_storage_commit_seconds_bucket"), "the store is not attached");
}

// Catches a stop that waits for an answer which nobody takes: it would last until the write counts as stalled, and for
// ever with a peer that takes a byte now and then.
#[tokio::test]
async fn a_stop_cuts_an_answer_that_is_not_taken() {
    let broker = TestBroker::start_with(|config| config.http.request_timeout = Duration::from_millis(200)).await;
    let mut native = broker.client().await;
    let topic = native.create_topic("t", 1).await;
    // As JSON six times as long: more than the sockets between the two can hold.
    native.produce(topic, 0, &[&"\u{1}".repeat((1 << 20) - 200)]).await.expect("written");
    drop(native);
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a small buffer");
    let mut slow = socket.connect(broker.server.http_address()).await.expect("connects");
    let request = "GET /api/v1/topics/t/records?partition=0 HTTP/1.1\r\nhost: localhost\r\n\r\n";
    slow.write_all(request.as_bytes()).await.expect("sent");
    // The answer has begun, and nobody takes it.
    let _some = slow.peek(&mut [0; 1]).await.expect("an answer");
    let stopped = tokio::time::timeout(Duration::from_secs(5), broker.stop()).await;
    stopped.expect("the stop waits for a peer that takes nothing").expect("an orderly stop");
    drop(slow);
}
