//! Creates a topic, sends ten records, reads them back: `cargo run --release -p streambus-client --example quickstart`
//! against `streambus dev`, or with another address as its argument.

use streambus_client::{Client, Error, ErrorCode, Record, Start, Topic};

#[tokio::main]
#[expect(clippy::print_stdout, reason = "an example talks to its reader")]
async fn main() -> Result<(), Error> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9092".to_owned());
    let bus = Client::connect(&address).await?;

    match bus.admin().create_topic("quickstart", Topic::partitions(3)).await {
        Err(error) if error.code() == Some(ErrorCode::TopicExists) => println!("the topic is there already"),
        other => println!("created: {:?}", other?.id),
    }

    let producer = bus.producer();
    for n in 0..10 {
        let record = Record::new("quickstart", format!("hello {n}")).key(format!("key-{n}"));
        let position = producer.send(record).await?;
        println!("on disk at partition {} offset {}", position.partition, position.offset);
    }
    producer.close().await?;

    let mut consumer = bus.consumer(["quickstart"]).from(Start::Earliest).until_end().start().await?;
    while let Some(record) = consumer.next().await? {
        println!("{}/{}: {:?}", record.partition, record.offset, record.value);
    }
    bus.close().await;
    Ok(())
}
