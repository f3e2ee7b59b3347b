//! Everything a producer sends to one broker: the queue of partitions that have a batch, and the requests made of them
//! at the moment the connection can write.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use streambus_protocol::api::decode_response;
use streambus_protocol::api::produce::{Acks, ProducePartition, ProduceRequest, ProduceResponse};
use streambus_protocol::batch::UnverifiedBatch;
use streambus_protocol::error_code::Applied;
use streambus_protocol::ids::{BrokerId, PartitionIndex, TopicId};
use tokio::time::Instant;

use crate::connection::Connection;
use crate::connection::in_flight::{Callback, Outcome};
use crate::connection::outbox::{FrameSource, Pulled};
use crate::error::Error;
use crate::producer::partition::Partition;
use crate::producer::shared::{Event, Shared};

/// Bytes at which a request is large enough; one more batch may take it above that.
const REQUEST_BYTES: usize = 1024 * 1024;

/// The way to one broker.
pub(crate) struct Sink {
    pub(crate) broker: BrokerId,
    shared: Arc<Shared>,
    state: Mutex<State>,
}

struct State {
    ready: VecDeque<Arc<Partition>>,
    link: Link,
}

enum Link {
    /// No connection, and nobody opens one.
    Down,
    /// The producer's task opens one.
    Opening,
    /// Connected; nothing asked to be written.
    Idle(Connection),
    /// Connected; the connection will pull.
    Armed(Connection),
}

/// A batch in a request, to find it again when the answer comes.
struct Sent {
    partition: Arc<Partition>,
    topic: TopicId,
    index: PartitionIndex,
    batch: u64,
    attempt: u32,
}

/// The makings of a request.
struct Gathered {
    partitions: Vec<ProducePartition>,
    sent: Vec<Sent>,
    deadline: Instant,
}

impl Sink {
    pub(crate) fn new(broker: BrokerId, shared: Arc<Shared>) -> Arc<Self> {
        Arc::new(Self { broker, shared, state: Mutex::new(State { ready: VecDeque::new(), link: Link::Down }) })
    }

    /// Queues a partition, whose `queued` mark the caller has set.
    pub(crate) fn offer(self: &Arc<Self>, partition: Arc<Partition>) {
        let mut state = self.state.lock();
        state.ready.push_back(partition);
        self.kick(&mut state);
    }

    /// Gets things going when something is queued.
    fn kick(self: &Arc<Self>, state: &mut State) {
        if state.ready.is_empty() {
            return;
        }
        state.link = match std::mem::replace(&mut state.link, Link::Down) {
            Link::Idle(connection) if connection.arm(Arc::clone(self) as Arc<dyn FrameSource>) => {
                Link::Armed(connection)
            }
            Link::Idle(_) | Link::Down => {
                self.shared.send(Event::Connect(Arc::clone(self)));
                Link::Opening
            }
            other => other,
        };
    }

    /// Takes a partition out of the queue: its leader is elsewhere now. Returns whether it stood there.
    pub(crate) fn forget(&self, partition: &Arc<Partition>) -> bool {
        let mut state = self.state.lock();
        let before = state.ready.len();
        state.ready.retain(|queued| !Arc::ptr_eq(queued, partition));
        let was_there = state.ready.len() < before;
        if was_there {
            partition.dequeued();
        }
        was_there
    }

    /// The producer's task has opened a connection.
    pub(crate) fn connected(self: &Arc<Self>, connection: Connection) {
        let mut state = self.state.lock();
        state.link = Link::Idle(connection);
        self.kick(&mut state);
    }

    /// True while somebody waits for a connection: there is something to send.
    pub(crate) fn wants_connection(&self) -> bool {
        let state = self.state.lock();
        matches!(state.link, Link::Opening) && !state.ready.is_empty()
    }

    /// The producer's task has given up opening a connection; the next partition that is offered asks anew.
    pub(crate) fn not_connected(self: &Arc<Self>) {
        let mut state = self.state.lock();
        state.link = Link::Down;
        self.kick(&mut state);
    }

    /// Empties the queue when the producer ends: partitions and sinks hold each other through it.
    pub(crate) fn clear(&self) {
        let ready = std::mem::take(&mut self.state.lock().ready);
        ready.iter().for_each(|partition| partition.dequeued());
    }

    fn pop(&self) -> Option<Arc<Partition>> {
        self.state.lock().ready.pop_front()
    }

    /// Lets the connection forget this sink, unless something was queued meanwhile. Returns whether it may.
    fn rest(&self) -> bool {
        let mut state = self.state.lock();
        if !state.ready.is_empty() {
            return false;
        }
        // Under the lock: a partition offered from now on arms the connection again.
        state.link = match std::mem::replace(&mut state.link, Link::Down) {
            Link::Armed(connection) => Link::Idle(connection),
            other => other,
        };
        true
    }

    /// One request's worth of batches.
    fn gather(&self, bytes_max: usize) -> Gathered {
        let now = Instant::now();
        let mut gathered = Gathered {
            partitions: Vec::new(),
            sent: Vec::new(),
            deadline: now + self.shared.engine.config.request_timeout,
        };
        // Each stays marked as queued until the request is complete: whoever adds a record meanwhile must not put it into
        // the queue again, because a request holds one batch of a partition at most.
        let mut popped = Vec::new();
        let mut bytes = 0;
        while bytes < REQUEST_BYTES.min(bytes_max) {
            let Some(partition) = self.pop() else { break };
            popped.push(Arc::clone(&partition));
            // None when it is not ripe yet, or somebody else was quicker.
            let Some((parcel, home)) = partition.take(self, now) else { continue };
            let batch = match parcel.recipe.cook(self.shared.config.compression) {
                Ok(batch) => batch,
                Err(error) => {
                    let error = Error::Invalid { what: format!("a batch cannot be built: {error}") };
                    partition.failed(parcel.id, parcel.attempt, error, None);
                    continue;
                }
            };
            partition.built(parcel.id, batch.clone());
            bytes += batch.len();
            gathered.deadline = gathered.deadline.min(parcel.deadline);
            let index = partition.index;
            gathered.partitions.push(ProducePartition {
                topic: home.topic,
                partition: index,
                leader_epoch: home.leader_epoch,
                batch: UnverifiedBatch::from_shared(batch),
            });
            let (batch, attempt) = (parcel.id, parcel.attempt);
            gathered.sent.push(Sent { partition, topic: home.topic, index, batch, attempt });
        }
        for partition in popped {
            partition.dequeued();
            partition.progress();
        }
        gathered
    }

    /// The answer to a request, or its failure.
    fn answered(&self, sent: Vec<Sent>, outcome: Outcome) {
        let address = || self.address();
        let response = match outcome {
            Ok(frame) => match decode_response::<ProduceResponse>(frame) {
                Ok(Ok(response)) => response,
                Ok(Err(body)) => return self.all_failed(sent, &Error::from_body(body)),
                Err(error) => {
                    let reason = format!("a produce answer does not decode: {error}");
                    self.breach(&reason);
                    let error = Error::Protocol { addr: address(), reason, outcome: Applied::Unknown };
                    return self.all_failed(sent, &error);
                }
            },
            Err(error) => return self.all_failed(sent, &error.into_error(&address(), true)),
        };
        let mut outcomes = response.partitions;
        for Sent { partition, topic, index, batch, attempt } in sent {
            // In the order of the request, says the protocol; so the first is almost always the one.
            let place = outcomes.iter().position(|o| o.topic == topic && o.partition == index);
            match place.map(|place| outcomes.remove(place).result) {
                Some(Ok(produced)) => partition.acknowledged(batch, attempt, Some(produced)),
                Some(Err(body)) => {
                    let hint = body.leader;
                    let error = Error::from_partition_body(body, (*partition.at).clone());
                    partition.failed(batch, attempt, error, hint);
                }
                None => {
                    let reason = "a produce answer leaves out a partition".to_owned();
                    let error = Error::Protocol { addr: address(), reason, outcome: Applied::Unknown };
                    partition.failed(batch, attempt, error, None);
                }
            }
        }
    }

    fn all_failed(&self, sent: Vec<Sent>, error: &Error) {
        for Sent { partition, batch, attempt, .. } in sent {
            partition.failed(batch, attempt, error.clone(), None);
        }
    }

    fn address(&self) -> String {
        match &self.state.lock().link {
            Link::Idle(connection) | Link::Armed(connection) => connection.address().to_owned(),
            Link::Down | Link::Opening => format!("broker {}", self.broker),
        }
    }

    fn breach(&self, reason: &str) {
        let connection = match &self.state.lock().link {
            Link::Idle(connection) | Link::Armed(connection) => Some(connection.clone()),
            Link::Down | Link::Opening => None,
        };
        if let Some(connection) = connection {
            connection.breach(reason.to_owned());
        }
    }
}

impl FrameSource for Sink {
    fn pull(self: Arc<Self>, bytes_max: usize) -> Option<Pulled> {
        let Gathered { partitions, sent, deadline } = loop {
            let gathered = self.gather(bytes_max);
            if !gathered.partitions.is_empty() {
                break gathered;
            }
            if self.rest() {
                return None;
            }
        };
        let acks = self.shared.config.acks;
        let request = ProduceRequest { acks, partitions };
        if acks == Acks::None {
            sent.iter().for_each(|sent| sent.partition.acknowledged(sent.batch, sent.attempt, None));
            return Some(Pulled { request, deadline, reply: None });
        }
        Some(Pulled { request, deadline, reply: Some(Callback::new(move |outcome| self.answered(sent, outcome))) })
    }

    fn disconnected(self: Arc<Self>) {
        let mut state = self.state.lock();
        if !matches!(state.link, Link::Opening) {
            state.link = Link::Down;
        }
        self.kick(&mut state);
    }
}
