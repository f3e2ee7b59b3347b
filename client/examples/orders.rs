//! The example of the README, word for word: a test compares the two and runs this one against a broker.

use streambus_client::{Client, Record, Start};

#[tokio::main]
async fn main() -> Result<(), streambus_client::Error> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9092".to_owned());
    let bus = Client::connect(&address).await?;

    let producer = bus.producer();
    let position = producer.send(Record::new("orders", "{\"item\":4}").key("ada")).await?;
    eprintln!("on disk: partition {} offset {}", position.partition, position.offset);
    producer.close().await?;

    let mut orders = bus.consumer(["orders"]).from(Start::Earliest).until_end().start().await?;
    while let Some(record) = orders.next().await? {
        eprintln!("{}/{}: {:?}", record.partition, record.offset, record.value);
    }
    Ok(())
}
