//! Who may connect and how many bytes may be in flight. A permit is the proof of admission and gives back on drop.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::net::limits::NetLimits;

/// Why a connection was refused at the door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionRefused {
    /// The broker's connection limit is reached.
    Total,
    /// The address's connection limit is reached.
    PerAddress,
}

/// The admission desk of one listener.
#[derive(Debug)]
pub struct Admission {
    limits: NetLimits,
    request_bytes: Arc<Semaphore>,
    /// One frame may be received in full beyond `request_bytes`.
    last_frame: Arc<Semaphore>,
    open: Mutex<OpenConnections>,
}

/// Bounded by `connections_max`: an address is forgotten with its last connection.
#[derive(Debug, Default)]
struct OpenConnections {
    total: usize,
    by_address: HashMap<IpAddr, usize>,
}

impl Admission {
    /// A desk for `limits`.
    pub fn new(limits: NetLimits) -> Arc<Self> {
        Arc::new(Self {
            request_bytes: Arc::new(Semaphore::new(limits.request_bytes_max.max(limits.frame_bytes_max))),
            last_frame: Arc::new(Semaphore::new(1)),
            limits,
            open: Mutex::default(),
        })
    }

    /// The limits it enforces.
    pub fn limits(&self) -> &NetLimits {
        &self.limits
    }

    /// Connections open now.
    pub fn connections(&self) -> usize {
        self.open.lock().total
    }

    /// Request bytes in flight now, on all connections.
    pub fn request_bytes_in_flight(&self) -> usize {
        let capacity = self.limits.request_bytes_max.max(self.limits.frame_bytes_max);
        capacity.saturating_sub(self.request_bytes.available_permits())
    }

    /// Admits one connection from `address`.
    pub fn admit_connection(self: &Arc<Self>, address: IpAddr) -> Result<ConnectionPermit, ConnectionRefused> {
        // An IPv4 client of a dual-stack listener must not count apart from itself.
        let address = address.to_canonical();
        let mut open = self.open.lock();
        if open.total >= self.limits.connections_max {
            return Err(ConnectionRefused::Total);
        }
        let from_address = open.by_address.entry(address).or_default();
        if *from_address >= self.limits.connections_per_ip_max {
            return Err(ConnectionRefused::PerAddress);
        }
        *from_address += 1;
        open.total += 1;
        Ok(ConnectionPermit { admission: Arc::clone(self), address })
    }
}

/// One admitted connection; its place is free again on drop.
#[derive(Debug)]
pub struct ConnectionPermit {
    admission: Arc<Admission>,
    address: IpAddr,
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let mut open = self.admission.open.lock();
        debug_assert!(open.total > 0, "more connections closed than opened");
        open.total = open.total.saturating_sub(1);
        if let Some(count) = open.by_address.get_mut(&self.address) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                open.by_address.remove(&self.address);
            }
        }
    }
}

/// One connection's request budgets.
#[derive(Debug)]
pub(crate) struct RequestBudget {
    all: Arc<Semaphore>,
    last_frame: Arc<Semaphore>,
    connection: Arc<Semaphore>,
    slots: Arc<Semaphore>,
    slots_max: usize,
    /// The longest wait for more room of a frame that has arrived in part.
    room_within: Duration,
    /// One more owner for each subscription that is open.
    activity: Arc<()>,
}

/// Why a frame that has arrived in part is received no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChargeRefused {
    /// A budget was closed.
    Closed,
    /// No room came for as long as a request may take.
    NoRoom,
}

/// Keeps a connection from counting as idle for as long as it lives.
#[derive(Clone, Debug)]
pub(crate) struct Activity(#[expect(dead_code, reason = "held for its count of owners")] Arc<()>);

impl RequestBudget {
    pub(crate) fn new(admission: &Admission) -> Self {
        let limits = &admission.limits;
        let slots_max = limits.requests_in_flight_max.max(1);
        Self {
            all: Arc::clone(&admission.request_bytes),
            last_frame: Arc::clone(&admission.last_frame),
            connection: Arc::new(Semaphore::new(limits.connection_request_bytes_max.max(limits.frame_bytes_max))),
            slots: Arc::new(Semaphore::new(slots_max)),
            slots_max,
            room_within: limits.request_timeout,
            activity: Arc::new(()),
        }
    }

    /// A reason not to be idle.
    pub(crate) fn activity(&self) -> Activity {
        Activity(Arc::clone(&self.activity))
    }

    /// True when no request of this connection is in flight and no subscription open. `given` owners of the activity
    /// belong to the connection itself.
    pub(crate) fn is_idle(&self, given: usize) -> bool {
        self.slots.available_permits() == self.slots_max && Arc::strong_count(&self.activity) <= 1 + given
    }

    /// Admits a request of `frame_bytes`, of which `charged` are charged to all connections so far, if there is room now.
    pub(crate) fn try_admit(&self, frame_bytes: usize, charged: usize) -> Option<RequestPermit> {
        let slot = Arc::clone(&self.slots).try_acquire_owned().ok()?;
        let connection = Arc::clone(&self.connection).try_acquire_many_owned(permit_count(frame_bytes)).ok()?;
        let all = Arc::clone(&self.all).try_acquire_many_owned(permit_count(charged)).ok()?;
        Some(RequestPermit { _slot: slot, _connection: connection, all: Charge::Within(all) })
    }

    /// As [`RequestBudget::try_admit`], waiting for room; `None` only if a budget was closed. The order (slot,
    /// connection, all) means that a connection never holds shared budget while it waits for its own.
    pub(crate) async fn admit(&self, frame_bytes: usize, charged: usize) -> Option<RequestPermit> {
        let slot = Arc::clone(&self.slots).acquire_owned().await.ok()?;
        let connection = Arc::clone(&self.connection).acquire_many_owned(permit_count(frame_bytes)).await.ok()?;
        let all = Arc::clone(&self.all).acquire_many_owned(permit_count(charged)).await.ok()?;
        Some(RequestPermit { _slot: slot, _connection: connection, all: Charge::Within(all) })
    }

    /// Raises what `permit` has charged to all connections to `charged`, if there is room now.
    pub(crate) fn try_charge(&self, permit: &mut RequestPermit, charged: usize) -> bool {
        let missing = permit.missing(charged);
        if missing == 0 {
            return true;
        }
        match Arc::clone(&self.all).try_acquire_many_owned(permit_count(missing)) {
            Ok(more) => {
                permit.all.add(more);
                true
            }
            Err(_) => false,
        }
    }

    /// As [`RequestBudget::try_charge`], waiting for room.
    ///
    /// Frames that have arrived in part hold budget while they wait for more, and could all wait for one another. So one
    /// of them at a time may be received in full beyond the budget: it ends, by its own deadline if by nothing else, and
    /// the next one takes its place. A frame that waits for longer than a request may take gives up and gives back what it
    /// holds: many that take their turn as slowly as they may would keep everybody else out for the sum of their turns.
    pub(crate) async fn charge(&self, permit: &mut RequestPermit, charged: usize) -> Result<(), ChargeRefused> {
        timeout(self.room_within, self.room(permit, charged)).await.unwrap_or(Err(ChargeRefused::NoRoom))
    }

    async fn room(&self, permit: &mut RequestPermit, charged: usize) -> Result<(), ChargeRefused> {
        let missing = permit.missing(charged);
        if missing == 0 {
            return Ok(());
        }
        tokio::select! {
            biased;
            more = Arc::clone(&self.all).acquire_many_owned(permit_count(missing)) => match more {
                Ok(more) => permit.all.add(more),
                Err(_closed) => return Err(ChargeRefused::Closed),
            },
            last_frame = Arc::clone(&self.last_frame).acquire_owned() => match last_frame {
                Ok(last_frame) => permit.all.go_beyond(last_frame),
                Err(_closed) => return Err(ChargeRefused::Closed),
            },
        }
        Ok(())
    }
}

/// A frame is at most `frame_bytes_max`, which both budgets hold: the wait always ends.
fn permit_count(frame_bytes: usize) -> u32 {
    u32::try_from(frame_bytes).unwrap_or(u32::MAX)
}

/// The proof that a request may be in flight: its slot and its bytes, given back when its reply has been written.
#[derive(Debug)]
pub(crate) struct RequestPermit {
    _slot: OwnedSemaphorePermit,
    _connection: OwnedSemaphorePermit,
    all: Charge,
}

/// What a request has charged to the budget of all connections.
#[derive(Debug)]
enum Charge {
    Within(OwnedSemaphorePermit),
    /// Boxed because it is rare, and a permit travels with every request.
    Beyond(Box<Beyond>),
}

/// The one frame that may be received in full beyond the budget.
#[derive(Debug)]
struct Beyond {
    charged: OwnedSemaphorePermit,
    _last_frame: OwnedSemaphorePermit,
}

impl Charge {
    fn add(&mut self, more: OwnedSemaphorePermit) {
        match self {
            Self::Within(charged) => charged.merge(more),
            Self::Beyond(beyond) => beyond.charged.merge(more),
        }
    }

    fn go_beyond(&mut self, last_frame: OwnedSemaphorePermit) {
        if let Self::Within(charged) = self
            && let Some(charged) = charged.split(charged.num_permits())
        {
            *self = Self::Beyond(Box::new(Beyond { charged, _last_frame: last_frame }));
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Within(charged) => charged.num_permits(),
            Self::Beyond(_) => usize::MAX,
        }
    }
}

impl RequestPermit {
    /// Bytes that may be received.
    pub(crate) fn charged(&self) -> usize {
        self.all.bytes()
    }

    fn missing(&self, charged: usize) -> usize {
        charged.saturating_sub(self.charged())
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn limits() -> NetLimits {
        NetLimits { connections_max: 3, connections_per_ip_max: 2, ..NetLimits::default() }
    }

    // Catches a count that leaks when a connection closes: the address would be locked out for ever.
    #[test]
    fn connections_are_counted_in_total_and_by_address_and_given_back() {
        let desk = Admission::new(limits());
        let one = IpAddr::from(Ipv4Addr::new(10, 0, 0, 1));
        let two = IpAddr::from(Ipv4Addr::new(10, 0, 0, 2));
        let first = desk.admit_connection(one).expect("room");
        let _second = desk.admit_connection(one).expect("room");
        assert_eq!(desk.admit_connection(one).err(), Some(ConnectionRefused::PerAddress));
        let _third = desk.admit_connection(two).expect("room");
        assert_eq!(desk.admit_connection(two).err(), Some(ConnectionRefused::Total));
        drop(first);
        let mapped = IpAddr::from(Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped());
        let _again = desk.admit_connection(mapped).expect("the place is free again");
        assert_eq!(desk.connections(), 3);
    }

    // Catches permits that are not returned: the budget would shrink with every request.
    #[test]
    fn request_bytes_are_shared_and_given_back() {
        let desk = Admission::new(NetLimits {
            frame_bytes_max: 100,
            connection_request_bytes_max: 100,
            request_bytes_max: 150,
            ..NetLimits::default()
        });
        let a = RequestBudget::new(&desk);
        let b = RequestBudget::new(&desk);
        let held = a.try_admit(100, 100).expect("room");
        assert!(a.try_admit(1, 1).is_none(), "the connection's own budget is used up");
        assert!(b.try_admit(51, 51).is_none(), "the shared budget has 50 left");
        assert_eq!(desk.request_bytes_in_flight(), 100);
        drop(held);
        assert!(b.try_admit(100, 100).is_some());
        assert_eq!(desk.request_bytes_in_flight(), 0);
        assert!(a.is_idle(0) && b.is_idle(0));
        let subscription = a.activity();
        assert!(!a.is_idle(0));
        drop(subscription);
        assert!(a.is_idle(0));
    }

    // Catches frames in part that wait for one another for ever.
    #[tokio::test]
    async fn one_frame_at_a_time_goes_on_beyond_a_budget_that_is_used_up() {
        let desk = Admission::new(NetLimits {
            frame_bytes_max: 100,
            connection_request_bytes_max: 100,
            request_bytes_max: 100,
            ..NetLimits::default()
        });
        let (a, b) = (RequestBudget::new(&desk), RequestBudget::new(&desk));
        let mut first = a.try_admit(100, 50).expect("room");
        let mut second = b.try_admit(100, 50).expect("room");
        assert!(!a.try_charge(&mut first, 100) && !b.try_charge(&mut second, 100));
        assert_eq!(a.charge(&mut first, 100).await, Ok(()));
        assert!(first.charged() >= 100);
        {
            let mut waiting = std::pin::pin!(b.charge(&mut second, 100));
            assert!(futures::poll!(waiting.as_mut()).is_pending(), "one at a time");
            drop(first);
            assert_eq!(waiting.await, Ok(()));
        }
        assert_eq!(second.charged(), 100);
        drop(second);
        assert_eq!(desk.request_bytes_in_flight(), 0);
    }

    // Catches frames in part that hold the budget for as long as all those before them care to take.
    #[tokio::test]
    async fn a_frame_that_finds_no_room_for_its_rest_gives_up() {
        let desk = Admission::new(NetLimits {
            frame_bytes_max: 100,
            connection_request_bytes_max: 100,
            request_bytes_max: 100,
            request_timeout: Duration::from_millis(20),
            ..NetLimits::default()
        });
        let (a, b) = (RequestBudget::new(&desk), RequestBudget::new(&desk));
        let mut first = a.try_admit(100, 50).expect("room");
        let mut second = b.try_admit(100, 50).expect("room");
        assert_eq!(a.charge(&mut first, 100).await, Ok(()));
        let refused = timeout(Duration::from_secs(20), b.charge(&mut second, 100)).await;
        assert_eq!(refused, Ok(Err(ChargeRefused::NoRoom)));
        drop(second);
        assert_eq!(desk.request_bytes_in_flight(), 50);
    }
}
