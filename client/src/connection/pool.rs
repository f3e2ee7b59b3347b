//! One connection per broker, opened when first needed, shared by everything in the client, replaced when it has ended.
//! Who comes while it is being opened waits for that attempt instead of starting another.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use streambus_protocol::ids::{BrokerId, ClusterId};
use tokio::time::Instant;

use crate::connection::call_error::CallError;
use crate::connection::circuit_state::{Admission, CircuitRules, CircuitState};
use crate::connection::{Connection, ConnectionSettings, open};
use crate::environment::Environment;
use crate::tasks::Tasks;

/// The connections of one client.
pub(crate) struct Pool {
    environment: Environment,
    settings: ConnectionSettings,
    rules: CircuitRules,
    tasks: Tasks,
    /// The cluster that the first connection found; every later one must find the same.
    cluster: OnceLock<ClusterId>,
    /// The connection to use for each broker, whatever address it was opened by.
    live: Mutex<HashMap<BrokerId, Connection>>,
    /// What is known about each address. Addresses come from the configuration and from metadata, so they are few.
    doors: Mutex<HashMap<String, Arc<Door>>>,
}

/// One address.
struct Door {
    circuit: Mutex<CircuitState>,
    /// Held while opening; holds the connection that this address led to.
    opened: tokio::sync::Mutex<Option<Connection>>,
}

impl Pool {
    pub(crate) fn new(
        environment: Environment,
        settings: ConnectionSettings,
        rules: CircuitRules,
        tasks: Tasks,
    ) -> Self {
        Self {
            environment,
            settings,
            rules,
            tasks,
            cluster: OnceLock::new(),
            live: Mutex::new(HashMap::new()),
            doors: Mutex::new(HashMap::new()),
        }
    }

    /// The cluster, once a connection was opened.
    pub(crate) fn cluster(&self) -> Option<ClusterId> {
        self.cluster.get().copied()
    }

    /// The connection to `broker`, opened through `address` if there is none.
    pub(crate) async fn broker(&self, broker: BrokerId, address: &str) -> Result<Connection, CallError> {
        if let Some(connection) = self.live_broker(broker) {
            return Ok(connection);
        }
        let connection = self.address(address).await?;
        if connection.broker() == broker {
            return Ok(connection);
        }
        // Metadata and address disagree: stale metadata, or a port that was taken over.
        let text = format!("broker {broker} was expected at {address}, {} answers there", connection.broker());
        Err(CallError::io(io::ErrorKind::AddrNotAvailable, &text, false))
    }

    /// A connection through `address`, whichever broker answers there.
    pub(crate) async fn address(&self, address: &str) -> Result<Connection, CallError> {
        let door = self.door(address);
        let mut opened = door.opened.lock().await;
        if let Some(connection) = opened.as_ref().filter(|connection| !connection.is_ended()) {
            return Ok(connection.clone());
        }
        if self.tasks.is_stopped() {
            return Err(CallError::Closed);
        }
        self.admit(&door)?;
        // An attempt that is dropped here reports nothing: it says nothing about the broker, and a probe's place in the
        // breaker is given to another after its time.
        let outcome = open(&*self.environment.connector, address, self.cluster(), &self.settings, &self.tasks).await;
        match outcome {
            Ok(connection) => {
                *door.circuit.lock() = CircuitState::NEW;
                let connection = self.register(connection)?;
                *opened = Some(connection.clone());
                Ok(connection)
            }
            Err(error) => {
                let mut circuit = door.circuit.lock();
                *circuit = circuit.failed(Instant::now(), &self.rules, self.environment.random.next_u64());
                Err(error)
            }
        }
    }

    /// The connections that are open.
    pub(crate) fn live(&self) -> Vec<Connection> {
        self.live.lock().values().filter(|connection| !connection.is_ended()).cloned().collect()
    }

    /// True when the last attempts at `address` failed.
    pub(crate) fn is_ailing(&self, address: &str) -> bool {
        self.doors.lock().get(address).is_some_and(|door| *door.circuit.lock() != CircuitState::NEW)
    }

    /// There is news that the broker at `address` is alive: it may be tried at once.
    pub(crate) fn forgive(&self, address: &str) {
        if let Some(door) = self.doors.lock().get(address) {
            let mut circuit = door.circuit.lock();
            *circuit = circuit.forgiven(Instant::now());
        }
    }

    fn live_broker(&self, broker: BrokerId) -> Option<Connection> {
        self.live.lock().get(&broker).filter(|connection| !connection.is_ended()).cloned()
    }

    /// Makes `connection` the one for its broker, unless there is one already, which then is the answer: two addresses
    /// may lead to the same broker.
    fn register(&self, connection: Connection) -> Result<Connection, CallError> {
        let cluster = *self.cluster.get_or_init(|| connection.cluster());
        if cluster != connection.cluster() {
            let text = format!("{} belongs to cluster {}, not {cluster}", connection.address(), connection.cluster());
            connection.breach(text.clone());
            return Err(CallError::Protocol(text));
        }
        let mut live = self.live.lock();
        match live.get(&connection.broker()) {
            Some(present) if !present.is_ended() => Ok(present.clone()),
            _ => {
                live.insert(connection.broker(), connection.clone());
                Ok(connection)
            }
        }
    }

    fn door(&self, address: &str) -> Arc<Door> {
        let mut doors = self.doors.lock();
        if let Some(door) = doors.get(address) {
            return Arc::clone(door);
        }
        let door = Arc::new(Door { circuit: Mutex::new(CircuitState::NEW), opened: tokio::sync::Mutex::new(None) });
        doors.insert(address.to_owned(), Arc::clone(&door));
        door
    }

    fn admit(&self, door: &Door) -> Result<(), CallError> {
        let now = Instant::now();
        let mut circuit = door.circuit.lock();
        let (next, admission) = circuit.admit(now, &self.rules);
        *circuit = next;
        match admission {
            Admission::Try => Ok(()),
            Admission::NotBefore(at) => {
                let wait = at.saturating_duration_since(now);
                let text = format!("failed too often, not tried again for {wait:?}");
                Err(CallError::io(io::ErrorKind::NotConnected, &text, false))
            }
        }
    }
}
